"""One method, and two over the same seeds: scipy's numbers, and silence where there is too little."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import stillroom as sr
from stillroom.errors import BadInput
from stillroom.study.statistics import interval, paired_difference
from stillroom.study.statistics.paired import hedges

# Accuracies as they are measured: a count of right answers among 10,000, in per cent.
accuracies = st.integers(0, 10_000).map(lambda right: right / 100)
pairs = st.lists(st.tuples(accuracies, accuracies), min_size=2, max_size=10)


def test_the_public_name_is_this_one() -> None:
    assert sr.paired_difference is paired_difference


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_interval_equals_scipys(level: float) -> None:
    values = [33.6, 34.1, 33.0, 35.2]
    found = interval(values, level=level)
    low, high = stats.t.interval(level, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.sd == pytest.approx(np.std(values, ddof=1))


def test_one_seed_has_no_interval_and_says_so() -> None:
    found = interval([80.0])
    assert (found.mean, found.sd, found.low, found.high, found.count) == (80.0, None, None, None, 1)
    assert found.describe(1) == "80.0 (one seed: no interval)"


def test_equal_values_claim_no_interval_of_no_width() -> None:
    found = interval([0.1, 0.1, 0.1])
    assert (found.sd, found.low, found.high) == (0, None, None)
    assert found.describe() == "0.10 (no spread between the seeds: no interval)"


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.inf], [1e200], [10**400], [None]])
def test_values_that_have_no_mean_are_refused(values: list[float]) -> None:
    with pytest.raises(BadInput):
        interval(values)


def test_a_level_that_is_no_coverage_is_refused() -> None:
    with pytest.raises(BadInput, match="level: got 95"):
        interval([1.0, 2.0], level=95)


@given(pairs)
def test_paired_difference_equals_scipys_test(rows: list[tuple[float, float]]) -> None:
    a, b = [row[0] for row in rows], [row[1] for row in rows]
    found = paired_difference(a, b)
    steps = {round(100 * y) - round(100 * x) for x, y in rows}
    if steps == {0}:
        assert (found.mean, found.low, found.high, found.p, found.effect) == (0, 0, 0, 1, None)
    elif len(steps) == 1:
        assert (found.low, found.high, found.p, found.effect) == (None, None, None, None)
    else:
        test = stats.ttest_rel(b, a)
        ends = test.confidence_interval(0.95)
        assert found.p == pytest.approx(test.pvalue, rel=1e-6)
        assert (found.low, found.high) == (pytest.approx(ends.low, abs=1e-6), pytest.approx(ends.high, abs=1e-6))


@given(pairs, st.randoms(use_true_random=False))
def test_the_order_of_the_seeds_does_not_matter_and_swapping_changes_the_sign(
    rows: list[tuple[float, float]], random: object
) -> None:
    found = paired_difference([row[0] for row in rows], [row[1] for row in rows])
    swapped = paired_difference([row[1] for row in rows], [row[0] for row in rows])
    random.shuffle(rows)  # type: ignore[attr-defined]
    moved = paired_difference([row[0] for row in rows], [row[1] for row in rows])
    for mine, other, opposite in (
        (found.mean, moved.mean, swapped.mean),
        (found.effect, moved.effect, swapped.effect),
        (found.low, moved.low, swapped.high),
    ):
        if mine is None:
            assert other is None
            assert opposite is None
        else:
            assert other == pytest.approx(mine, rel=1e-6, abs=1e-9)
            assert opposite is not None
            assert -opposite == pytest.approx(mine, rel=1e-6, abs=1e-9)
    assert (found.p is None) == (moved.p is None) == (swapped.p is None)
    if found.p is not None:
        assert moved.p == pytest.approx(found.p, rel=1e-6)
        assert swapped.p == pytest.approx(found.p, rel=1e-6)


def test_differences_that_only_rounding_tells_apart_are_no_spread() -> None:
    a, b = [82.21, 81.01, 33.3], [82.31, 81.11, 33.4]
    assert len({y - x for x, y in zip(a, b, strict=True)}) > 1
    found = paired_difference(a, b)
    assert (found.sd, found.low, found.p) == (0, None, None)
    assert "no spread between the pairs" in found.describe()


def test_effect_size_is_scipys_t_over_the_root_of_the_seeds_corrected() -> None:
    a, b = [33.6, 34.1, 33.0, 35.2, 34.0], [34.2, 34.1, 33.7, 35.9, 34.1]
    found = paired_difference(a, b)
    # For 4 degrees of freedom J = Γ(2) / (√2 Γ(3/2)) = 2 / √(2π).
    assert found.effect == pytest.approx(stats.ttest_rel(b, a).statistic / math.sqrt(5) * 2 / math.sqrt(2 * math.pi))


def test_two_seeds_have_no_effect_size_for_its_correction_is_zero() -> None:
    assert paired_difference([1.0, 2.0], [1.5, 2.7]).effect is None
    assert hedges(2) == 0


@pytest.mark.parametrize("count", [3, 4, 10, 30, 1000])
def test_hedges_correction_is_near_its_common_approximation(count: int) -> None:
    assert hedges(count) == pytest.approx(1 - 3 / (4 * (count - 1) - 1), abs=0.04 if count == 3 else 0.01)


def test_json_holds_finite_numbers_or_null() -> None:
    for found in (interval([1.0]), paired_difference([1.0], [2.0]), paired_difference([1.0, 1.0], [2.0, 2.0])):
        json.dumps(found.as_dict(), allow_nan=False)
    assert paired_difference([1.0], [2.0]).as_dict()["p"] is None
