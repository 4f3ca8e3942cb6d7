"""Families of comparisons: Holm by hand, whom they compare, what they leave out, what they say."""

from __future__ import annotations

import inspect
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stillroom.errors import BadInput
from stillroom.study import statistics
from stillroom.study.statistics import PLANNING_CAUTION, HolmFamily, against_baseline, between_all, paired_difference
from stillroom.study.statistics.paired import holm

FOUND = {
    "labels": {0: 33.6, 1: 34.1, 2: 33.0, 3: 33.9},
    "kl": {0: 40.2, 1: 39.1, 2: 39.4, 3: 40.0},
    "mse": {0: 34.0, 1: 33.9, 2: 33.8, 3: 34.2},
}
shares = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def both(values: dict[str, dict[int, float]]) -> list[HolmFamily]:
    return [against_baseline(values, next(iter(values))), between_all(values)]


def test_holm_by_hand() -> None:
    # Sorted: .005 · 4, .01 · 3, .03 · 2 and .04 · 1, the last raised to the .06 before it.
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.5, 0.6])).tolist() == [1.0, 1.0]


def test_a_test_that_fell_out_makes_no_other_one_easier() -> None:
    found = holm(np.array([0.02, np.nan, 0.03]))
    assert found[[0, 2]] == pytest.approx([0.06, 0.06])
    assert np.isnan(found[1])


@given(shares, st.randoms(use_true_random=False))
def test_holm_keeps_the_order_lies_between_p_and_bonferroni_and_moves_with_its_tests(
    ps: list[float], random: Any
) -> None:
    p = np.array(ps)
    found = holm(p)
    assert (np.diff(found[np.argsort(p, kind="stable")]) >= 0).all()
    assert (found >= p).all()
    assert (found <= np.minimum(p * len(p), 1)).all()
    assert found.min() == pytest.approx(min(1, p.min() * len(p)))
    moved = list(range(len(ps)))
    random.shuffle(moved)
    assert holm(p[moved]) == pytest.approx(found[moved])


@given(st.lists(shares.filter(lambda row: len(row) >= 3).map(lambda row: row[:3]), min_size=1, max_size=4))
def test_holm_over_many_families_is_holm_of_each(rows: list[list[float]]) -> None:
    assert holm(np.array(rows)) == pytest.approx(np.array([holm(np.array(row)) for row in rows]))


def test_the_baseline_family_is_each_other_method_less_the_baseline() -> None:
    found = against_baseline(FOUND, "labels")
    assert [(one.method, one.against) for one in found.comparisons] == [("kl", "labels"), ("mse", "labels")]
    ps = [stats.ttest_rel(list(FOUND[name].values()), list(FOUND["labels"].values())).pvalue for name in ("kl", "mse")]
    assert [one.difference and one.difference.p for one in found.comparisons] == pytest.approx(ps)
    assert [one.holm_p for one in found.comparisons] == pytest.approx([2 * ps[0], ps[1]])
    assert [one.verdict for one in found.comparisons] == ["higher", "undecided"]


def test_all_pairs_are_a_family_of_their_own() -> None:
    found = between_all(FOUND)
    assert [(one.method, one.against) for one in found.comparisons] == [
        ("kl", "labels"), ("mse", "labels"), ("mse", "kl"),
    ]  # fmt: skip
    assert {one.family for one in found.comparisons} == {3}
    assert found.comparisons[2].verdict == "lower"
    assert {one.family for one in against_baseline(FOUND, "labels").comparisons} == {2}


def test_a_family_of_hundreds_is_compared_without_plans_and_says_so() -> None:
    rng = np.random.default_rng(0)
    values = {f"c{k:02}": dict(enumerate(rng.normal(size=3).tolist())) for k in range(21)}
    found = between_all(values)
    assert {one.plan for one in found.comparisons} == {None}
    assert "how many seeds would settle them is not worked out for more than 200:" in found.describe().splitlines()[0]
    assert PLANNING_CAUTION not in found.describe()
    values.popitem()
    fewer = between_all(values)
    assert len(fewer.comparisons) == 190
    assert any(one.plan is not None for one in fewer.comparisons)
    assert "not worked out" not in fewer.describe()


def test_what_is_barred_keeps_its_numbers_and_claims_nothing() -> None:
    decided, undecided = against_baseline(FOUND, "labels").comparisons
    for one in (decided, undecided):
        barred = one.without_claim("not equal")
        assert (barred.difference, barred.holm_p, barred.family) == (one.difference, one.holm_p, one.family)
        assert (barred.decided, barred.verdict, barred.plan) == (False, "undecided", None)
        assert barred.describe().endswith("4 seeds: no claim: not equal")


def test_bonferronis_intervals_are_those_of_the_family_and_wider() -> None:
    first = between_all(FOUND).comparisons[0]
    wide = paired_difference(list(FOUND["labels"].values()), list(FOUND["kl"].values()), level=1 - 0.05 / 3)
    assert (first.family_low, first.family_high) == (pytest.approx(wide.low), pytest.approx(wide.high))
    assert first.difference is not None
    assert first.family_low is not None
    assert first.difference.low is not None
    assert first.family_low < first.difference.low


def test_nobody_can_ask_for_a_comparison_with_the_best() -> None:
    for name in statistics.__all__:
        item = getattr(statistics, name)
        if callable(item):
            assert not {"best", "winner"} & set(inspect.signature(item).parameters)
    with pytest.raises(BadInput, match="no comparison is made with the best of the values themselves"):
        against_baseline(FOUND, "best")


def test_a_misspelt_baseline_is_reported_its_nearest_name() -> None:
    with pytest.raises(BadInput, match="did you mean 'labels'"):
        against_baseline(FOUND, "lables")


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "40"])
def test_a_value_that_is_no_number_is_refused_with_method_and_seed(value: Any) -> None:
    with pytest.raises(BadInput, match="kl, seed 7"):
        between_all({"labels": {7: 1.0}, "kl": {7: value}})


@pytest.mark.parametrize("alpha", [0, 1, 5, math.nan])
def test_a_rate_that_is_none_is_refused(alpha: float) -> None:
    with pytest.raises(BadInput, match="alpha"):
        between_all(FOUND, alpha=alpha)


def test_no_method_is_refused_and_one_has_nothing_to_compare() -> None:
    with pytest.raises(BadInput, match="at least one method"):
        between_all({})
    for found in both({"labels": {0: 1.0}}):
        assert found.comparisons == ()
        assert found.describe().endswith("one method, nothing to compare.")


def test_seeds_that_only_one_has_are_left_out_and_named() -> None:
    values = {"labels": {0: 1.0, 1: 2.0, 2: 2.5, 9: 3.0}, "kl": {2: 4.5, 1: 3.0, 0: 1.5, 5: 4.0, 6: 4.0}}
    found = against_baseline(values, "labels").comparisons[0]
    assert found.seeds == (0, 1, 2)
    assert found.difference == paired_difference([1.0, 2.0, 2.5], [1.5, 3.0, 4.5])
    assert found.describe().endswith("(kl lacks seed 9, labels lacks seeds 5, 6)")


def test_no_seed_in_common_is_no_test_but_stays_in_the_family() -> None:
    found = against_baseline({**FOUND, "late": {8: 1.0}, "never": {}}, "labels")
    assert [one.difference is None for one in found.comparisons] == [False, False, True, True]
    assert found.comparisons[0].family == 4
    assert found.comparisons[2].describe() == (
        "late − labels: no seed in common: undecided (late lacks seeds 0, 1, 2, 3, labels lacks seed 8)"
    )


def test_one_seed_zero_differences_and_no_spread_in_words() -> None:
    values = {"labels": {0: 80.0, 1: 81.0}, "same": {0: 80.0, 1: 81.0}, "shifted": {0: 80.5, 1: 81.5}, "one": {0: 82.0}}
    same, shifted, one = against_baseline(values, "labels").comparisons
    assert (same.holm_p, same.verdict) == (1, "undecided")
    assert same.describe().endswith("p = 1, Holm p = 1, 2 seeds: undecided, no seed shows a difference")
    assert (shifted.holm_p, shifted.verdict) == (None, "undecided")
    assert shifted.describe() == (
        "shifted − labels: +0.50 (no spread between the 2 seeds, as if they were one: no interval, no p): undecided"
    )
    assert (one.holm_p, one.verdict) == (None, "undecided")
    assert one.describe().startswith("one − labels: +2.00 (one seed: no interval, no p): undecided")


def test_what_is_undecided_is_reported_how_many_seeds_it_wants_and_the_caution_once() -> None:
    found = against_baseline(FOUND, "labels")
    decided, undecided = found.comparisons
    assert decided.plan is None
    assert decided.describe().endswith("4 seeds: higher")
    assert undecided.plan is not None
    assert undecided.plan.alpha == 0.05  # kl is decided, so that Holm tests mse at alpha itself
    assert f"{undecided.plan.seeds} seeds in all" in undecided.describe()
    assert found.describe().count(PLANNING_CAUTION) == 1
    assert PLANNING_CAUTION not in against_baseline({n: FOUND[n] for n in ("labels", "kl")}, "labels").describe()


@given(st.permutations(list(FOUND)), st.permutations(range(4)))
def test_the_order_of_methods_and_seeds_changes_no_p(names: list[str], seeds: list[int]) -> None:
    def ps(family: HolmFamily) -> dict[frozenset[str], float]:
        return {frozenset((one.method, one.against)): one.holm_p or 0.0 for one in family.comparisons}

    moved = {name: {seed: FOUND[name][seed] for seed in seeds} for name in names}
    assert ps(between_all(moved)) == pytest.approx(ps(between_all(FOUND)))
    assert ps(against_baseline(moved, "kl")) == pytest.approx(ps(against_baseline(FOUND, "kl")))


def test_json_holds_finite_numbers_or_null() -> None:
    values = {**FOUND, "late": {8: 1.0}, "one": {0: 1.0}, "same": FOUND["labels"], "never": {}}
    for found in both(values):
        shown = json.loads(json.dumps(found.as_dict(), allow_nan=False))
        assert len(shown["comparisons"]) == len(found.comparisons)
        assert {"holm_p", "verdict", "plan"} <= shown["comparisons"][0].keys()
