"""AverageRanks across pairs: Demšar's published example, scipy's Friedman test, and when there is no test."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stillroom.errors import BadInput
from stillroom.study.statistics import AverageRanks, friedman, nemenyi, ranks_across_pairs
from stillroom.study.statistics.ranks import groups, iman_davenport

# The ranks in table 6 of Demšar 2006: C4.5, with m, with cf, with both, on 14 data sets.
DEMSAR = np.array([
    [4, 3, 2, 1], [1, 2, 3, 4], [4, 1, 2, 3], [4, 1, 3, 2], [4, 2, 3, 1], [1, 2.5, 4, 2.5], [3, 2, 4, 1],
    [2.5, 2.5, 4, 1], [4, 3, 2, 1], [2.5, 2.5, 2.5, 2.5], [4, 2.5, 1, 2.5], [3, 2, 4, 1], [4, 1, 2, 3], [3, 1, 4, 2],
])  # fmt: skip
NAMES = ["C4.5", "m", "cf", "m+cf"]


def chi_square(average: Any, pairs: int) -> Any:
    """Friedman's statistic of average ranks [..., k] that are not corrected for ties."""
    k = average.shape[-1]
    return 12 * pairs / (k * (k + 1)) * ((average - (k + 1) / 2) ** 2).sum(axis=-1)


def ranked(table: Any, **options: Any) -> AverageRanks:
    rows = np.asarray(table, dtype=float)
    names = NAMES[: rows.shape[1]]
    values = {name: {f"pair{n}": float(row[place]) for n, row in enumerate(rows)} for place, name in enumerate(names)}
    return ranks_across_pairs(values, **options)


def test_demsars_average_ranks() -> None:
    found = ranked(DEMSAR, higher_is_better=False)
    assert found.names == ("m+cf", "m", "cf", "C4.5")
    assert found.average == pytest.approx([1.964, 2.000, 2.893, 3.143], abs=5e-4)


def test_demsars_statistics_which_are_not_corrected_for_ties() -> None:
    statistic = chi_square(DEMSAR.mean(axis=0), 14)
    found, p = iman_davenport(statistic, 14, 4)
    assert float(statistic) == pytest.approx(9.28, abs=0.005)
    assert float(found) == pytest.approx(3.69, abs=0.005)
    assert float(p) == pytest.approx(0.0199, abs=2e-4)


def test_demsars_critical_difference_and_bars() -> None:
    found = ranked(DEMSAR, higher_is_better=False)
    assert found.critical_difference == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 14)), abs=5e-4)
    assert f"{found.critical_difference:.2f}" == "1.25"
    assert found.bars == (("m+cf", "m", "cf", "C4.5"),)


@pytest.mark.parametrize(
    ("methods", "q"),
    [(3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (7, 2.949), (8, 3.031), (9, 3.102), (10, 3.164)],
)
def test_nemenyis_quantiles_are_those_of_the_published_table(methods: int, q: float) -> None:
    scale = math.sqrt(methods * (methods + 1) / 6)
    assert nemenyi(methods, 1) / scale == pytest.approx(q, abs=1.1e-3)


@given(
    st.integers(3, 5).flatmap(
        lambda k: st.lists(st.lists(st.integers(0, 6), min_size=k, max_size=k), min_size=2, max_size=9)
    )
)
def test_friedmans_statistic_is_scipys_ties_and_all(rows: list[list[int]]) -> None:
    found = friedman(stats.rankdata(rows, axis=1))
    if all(len(set(row)) == 1 for row in rows):
        assert (found.chi_square, found.p) == (0, 1)
        return
    assert found.chi_square == pytest.approx(stats.friedmanchisquare(*np.transpose(rows)).statistic, abs=1e-9)
    assert 0 < found.p <= 1
    assert found.f is None or math.isfinite(found.f)


def test_ties_share_their_ranks_and_rounding_breaks_none() -> None:
    mean, other = (0.1 + 0.2 + 0.3) / 3, (0.3 + 0.2 + 0.1) / 3
    assert mean != other
    assert ranked([[mean, other, 0.1], [1, 1, 0]]).average == (1.5, 1.5, 3.0)


def test_the_highest_value_is_first_unless_the_lowest_is() -> None:
    table = [[1, 2, 3], [1, 2, 3]]
    assert ranked(table).names == ("cf", "m", "C4.5")
    assert ranked(table, higher_is_better=False).names == ("C4.5", "m", "cf")


def test_pairs_that_all_rank_alike_have_the_exact_chance_of_it() -> None:
    two = ranked([[1, 2, 3]] * 2)
    assert two.friedman is not None
    assert two.friedman.f is None
    assert two.friedman.p == pytest.approx(1 / 6)
    tied = ranked([[1, 1, 3]] * 4)
    assert tied.friedman is not None
    assert tied.friedman.p == pytest.approx(1 / 27)
    assert "all pairs rank alike, p = 0.037" in tied.describe()


def test_everything_tied_is_no_difference() -> None:
    found = ranked([[1, 1, 1]] * 3)
    assert found.friedman is not None
    assert (found.friedman.chi_square, found.friedman.p) == (0, 1)
    assert found.bars == (("C4.5", "m", "cf"),)


def test_without_friedmans_word_no_two_are_distinguished() -> None:
    found = ranked([[1, 2, 3], [3, 2, 1], [1, 3, 2]])
    assert found.friedman is not None
    assert found.friedman.p > 0.05
    assert found.bars == (found.names,)
    assert "no difference shown" in found.describe()


def test_all_distinguished_has_no_bars() -> None:
    found = ranked([[1, 2, 3]] * 20)
    assert found.bars == ()
    assert found.describe().endswith("all distinguished")


def test_few_pairs_are_reported_that_ranks_cannot_tell_any_two_apart() -> None:
    found = ranked([[1, 2, 3, 4]] * 2, higher_is_better=False)
    assert found.friedman is not None
    assert found.friedman.p < 0.05
    assert found.bars == (found.names,)
    assert "too few pairs for ranks to tell any two apart" in found.describe()


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ([[1]], "one method, nothing to compare"),
        ([[1, 2], [1, 2]], "two methods, for whom the paired difference says more"),
        ([[1, 2, 3]], "one pair, which shows no spread of the ranks"),
    ],
)
def test_too_few_have_ranks_but_no_test_and_say_why(table: list[list[float]], why: str) -> None:
    found = ranked(table)
    assert (found.friedman, found.critical_difference, found.bars, found.why) == (None, None, (), why)
    assert found.describe().endswith(f"no test: {why}")
    assert len(found.average) == len(table[0])


def test_pairs_that_a_method_lacks_are_left_out_for_all_and_named() -> None:
    values = {"a": {"x": 1.0, "y": 2.0}, "b": {"x": 2.0}, "c": {"x": 3.0, "y": 1.0}}
    found = ranks_across_pairs(values)
    assert (found.pairs, found.left_out) == (("x",), ("y",))
    assert found.describe().endswith("left out, as a method lacks them: y")
    none = ranks_across_pairs({"a": {"x": 1.0}, "b": {"y": 1.0}})
    assert none.describe() == (
        "No ranks of a, b; no test: no pair that all methods have; left out, as a method lacks them: x, y"
    )


def test_bars_are_as_large_as_can_be_and_none_lies_within_another() -> None:
    assert groups([1.0, 1.5, 2.2, 4.0], 1.0) == [(0, 2), (1, 3)]
    assert groups([1.0, 1.1, 1.2], 1.0) == [(0, 3)]
    assert groups([1.0, 2.0], 1.0) == []  # exactly the critical difference is distinguished


@given(st.lists(st.floats(1, 9), min_size=3, max_size=9).map(sorted), st.floats(0.1, 4))
def test_two_share_a_bar_just_where_they_are_not_distinguished(average: list[float], apart: float) -> None:
    found = groups(average, apart)
    for i in range(len(average)):
        for j in range(i + 1, len(average)):
            together = any(start <= i and j < stop for start, stop in found)
            assert together == (average[j] - average[i] < apart)


@given(st.permutations(NAMES), st.permutations(range(14)))
def test_the_order_of_methods_and_pairs_does_not_matter(names: list[str], pairs: list[int]) -> None:
    values = {name: {str(n): -DEMSAR[n, NAMES.index(name)] for n in pairs} for name in names}
    found, expected = ranks_across_pairs(values), ranked(DEMSAR, higher_is_better=False)
    assert found.names == expected.names
    assert found.bars == expected.bars
    assert found.friedman is not None
    assert expected.friedman is not None
    assert found.friedman.p == pytest.approx(expected.friedman.p)


def test_what_is_no_number_no_rate_or_no_table_is_refused() -> None:
    with pytest.raises(BadInput, match="m, pair pair0"):
        ranked([[1, math.nan, 2]])
    with pytest.raises(BadInput, match="alpha"):
        ranked([[1, 2, 3]], alpha=5)
    with pytest.raises(BadInput, match="at least 2 pairs"):
        friedman(np.ones((1, 3)))


def test_json_holds_finite_numbers_or_null() -> None:
    for table in (DEMSAR, [[1, 2, 3]], [[1, 2, 3]] * 3):
        shown = json.loads(json.dumps(ranked(table).as_dict(), allow_nan=False))
        assert set(shown) >= {"names", "average", "critical_difference", "bars", "friedman", "why"}
