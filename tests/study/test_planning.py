"""How many seeds: published tables, the noncentral t where scipy can say it, and what no number is given for."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stillroom.errors import BadInput
from stillroom.study.statistics import PLANNING_CAUTION, seeds_to_settle
from stillroom.study.statistics.paired import power_of


def differences(effect: float) -> list[float]:
    """Two of mean ``effect`` and standard deviation 1."""
    return [effect - math.sqrt(0.5), effect + math.sqrt(0.5)]


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_seeds_are_those_of_the_published_tables(effect: float, seeds: int) -> None:
    found = seeds_to_settle(differences(effect))
    assert found is not None
    assert (found.seeds, found.more) == (seeds, seeds - 2)
    assert found.describe() == f"about {seeds} seeds in all ({seeds - 2} more) would settle it with power 0.8"


@pytest.mark.parametrize("effect", [0.0, 0.1, 0.7, 2.0, 5.0, 40.0])
@pytest.mark.parametrize("count", [2, 3, 5, 10, 100])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 15])
def test_power_is_the_noncentral_ts(effect: float, count: int, alpha: float) -> None:
    critical, shift = stats.t.isf(alpha / 2, count - 1), effect * math.sqrt(count)
    expected = stats.nct.sf(critical, count - 1, shift) + stats.nct.cdf(-critical, count - 1, shift)
    found = power_of(effect, count, alpha)
    assert 0 <= found <= 1
    if math.isfinite(expected):
        assert found == pytest.approx(expected, abs=1e-5)
    assert power_of(-effect, count, alpha) == found


@given(st.floats(0, 50), st.integers(2, 200), st.sampled_from([0.05, 0.01, 0.001]))
def test_power_grows_with_the_seeds(effect: float, count: int, alpha: float) -> None:
    # The integral is good to 1e-5, as the noncentral t of the test above shows.
    assert power_of(effect, count + 1, alpha) >= power_of(effect, count, alpha) - 2e-5


def test_the_seeds_are_the_fewest_with_the_power() -> None:
    for effect in (0.4, 1.5, 4.0):
        found = seeds_to_settle(differences(effect), power=0.9, alpha=0.01)
        assert found is not None
        assert found.seeds is not None
        assert power_of(effect, found.seeds, 0.01) >= 0.9 > power_of(effect, found.seeds - 1, 0.01)


def test_what_is_decided_needs_no_plan() -> None:
    assert seeds_to_settle([2.0, 1.5, 2.5]) is None


def test_what_is_not_decided_needs_one_seed_more_at_least() -> None:
    found = seeds_to_settle([1.0, 1.2], power=0.01)
    assert found is not None
    assert found.more == 1


def test_a_tiny_difference_is_reported_as_more_than_the_cap() -> None:
    found = seeds_to_settle([1.0, -1.01, 0.0])
    assert found is not None
    assert (found.seeds, found.more) == (None, None)
    assert found.describe() == "more than 1,000 seeds would settle it, if any"
    capped = seeds_to_settle(differences(0.5), cap=33)
    assert capped is not None
    assert capped.seeds is None
    crowded = seeds_to_settle([0.1, 1.0, -0.8], cap=2)
    assert crowded is not None
    assert crowded.seeds is None


@pytest.mark.parametrize(
    ("values", "words"),
    [([1.0], "one seed shows no spread"), ([0.0, 0.0], "no seed shows a difference"), ([0.5, 0.5], "no spread")],
)
def test_without_a_spread_there_is_no_telling(values: list[float], words: str) -> None:
    found = seeds_to_settle(values)
    assert found is not None
    assert found.seeds is None
    assert words in found.describe()
    json.dumps(found.as_dict(), allow_nan=False)


def test_the_caution_says_that_adding_seeds_until_p_is_small_is_no_test() -> None:
    assert "declare the new number of seeds first" in PLANNING_CAUTION
    assert "planning only" in PLANNING_CAUTION


@pytest.mark.parametrize("options", [{"power": 1.0}, {"alpha": 0.0}, {"cap": 1}])
def test_options_that_are_none_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=next(iter(options))):
        seeds_to_settle([0.1, 1.0], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [[], [math.nan]])
def test_differences_that_are_none_are_refused(values: list[float]) -> None:
    with pytest.raises(BadInput):
        seeds_to_settle(values)


def test_so_many_seeds_do_find_the_difference_so_often() -> None:
    draws = 20_000
    noise = np.random.default_rng(3).normal(size=(draws, 10)) + 1.0
    found = (stats.ttest_1samp(noise, 0, axis=-1).pvalue <= 0.05).mean()
    assert found == pytest.approx(power_of(1.0, 10), abs=3 * math.sqrt(0.2 * 0.8 / draws))
