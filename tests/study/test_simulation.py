"""What the statistics promise, held over many simulated studies: false findings and coverage.

The library's own functions work on all draws at once, and a sample of the draws goes through the public ones.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from stillroom.study.statistics import against_baseline, between_all, interval
from stillroom.study.statistics.paired import hedges, holm, paired_t, student
from stillroom.study.statistics.ranks import iman_davenport, nemenyi

DRAWS = 20_000
CONTESTANTS = 6
ALPHA = 0.05
SLACK = 3 * math.sqrt(ALPHA * (1 - ALPHA) / DRAWS)
FAMILIES = {
    "baseline": [(0, other) for other in range(1, CONTESTANTS)],
    "all": list(combinations(range(CONTESTANTS), 2)),
}
seeds_of_a_study = pytest.mark.parametrize("seeds", [3, 5, 10])
families = pytest.mark.parametrize("family", FAMILIES)


def chi_square(average: Any, pairs: int) -> Any:
    """Friedman's statistic of average ranks [..., k] that are not corrected for ties."""
    k = average.shape[-1]
    return 12 * pairs / (k * (k + 1)) * ((average - (k + 1) / 2) ** 2).sum(axis=-1)


def studies(seeds: int, draws: int = DRAWS) -> NDArray[np.float64]:
    """Accuracies [draws, methods, seeds] of methods that are all alike; a seed is good or bad for all."""
    rng = np.random.default_rng(1000 + seeds)
    return 80 + rng.normal(size=(draws, 1, seeds)) + 0.5 * rng.normal(size=(draws, CONTESTANTS, seeds))


def pair_ps(found: NDArray[np.float64], family: str) -> NDArray[np.float64]:
    first, second = (list(side) for side in zip(*FAMILIES[family], strict=True))
    return paired_t(found[:, first], found[:, second]).p


@seeds_of_a_study
@families
def test_families_without_a_difference_seldom_find_one(family: str, seeds: int) -> None:
    found = (holm(pair_ps(studies(seeds), family)) <= ALPHA).any(axis=-1).mean()
    assert 0.01 < found <= ALPHA + SLACK


@seeds_of_a_study
def test_without_the_correction_they_find_one_far_too_often(seeds: int) -> None:
    assert (pair_ps(studies(seeds), "all") <= ALPHA).any(axis=-1).mean() > 2 * ALPHA


@seeds_of_a_study
def test_against_the_best_of_the_same_data_there_would_be_too_many_findings(seeds: int) -> None:
    """Why there is no such comparison: its winner is the luckiest, and Holm over k − 1 does not know it."""
    found = studies(seeds)
    best = found.mean(axis=-1).argmax(axis=-1)
    others = np.array([[place for place in range(CONTESTANTS) if place != one] for one in best])
    rows = np.arange(DRAWS)
    p = paired_t(found[rows, best][:, None], found[rows[:, None], others]).p
    assert (holm(p) <= ALPHA).any(axis=-1).mean() > ALPHA + SLACK


@seeds_of_a_study
@families
def test_families_of_coarse_accuracies_seldom_find_one(family: str, seeds: int) -> None:
    """Of a hundred test images: differences then agree by chance, and p = 0 for them would be many findings."""
    coarse = np.round(studies(seeds))
    p = pair_ps(coarse, family)
    assert np.isnan(p).any() == (seeds < 10)
    assert (holm(p) <= ALPHA).any(axis=-1).mean() <= ALPHA + SLACK
    if seeds == 3:
        naive = np.where(np.isnan(p), 0.0, p)
        assert (holm(naive) <= ALPHA).any(axis=-1).mean() > 2 * ALPHA


@seeds_of_a_study
def test_intervals_of_a_mean_cover_it(seeds: int) -> None:
    found = student(studies(seeds)[:, 0])
    assert (np.abs(found.mean - 80) <= found.margin).mean() == pytest.approx(0.95, abs=SLACK)


@seeds_of_a_study
def test_intervals_of_a_paired_difference_cover_it(seeds: int) -> None:
    rows = studies(seeds)
    found = paired_t(rows[:, 0], rows[:, 1] + 0.7)
    assert (np.abs(found.mean - 0.7) <= found.margin).mean() == pytest.approx(0.95, abs=SLACK)


@seeds_of_a_study
@families
def test_bonferronis_intervals_cover_all_at_once(family: str, seeds: int) -> None:
    first, second = (list(side) for side in zip(*FAMILIES[family], strict=True))
    rows = studies(seeds)
    found = paired_t(rows[:, first], rows[:, second], level=1 - ALPHA / len(first))
    assert (np.abs(found.mean) <= found.margin).all(axis=-1).mean() >= 0.95 - SLACK


def test_the_corrected_effect_size_is_right_on_average() -> None:
    rows = studies(10)
    found = paired_t(rows[:, 0], rows[:, 1] + 0.7)
    effects = hedges(10) * found.mean / found.sd
    error = effects.std() / math.sqrt(DRAWS)
    assert effects.mean() == pytest.approx(0.7 / math.sqrt(0.5), abs=3 * error)
    assert (effects / hedges(10)).mean() > 0.7 / math.sqrt(0.5) + 3 * error


@pytest.mark.parametrize("pairs", [3, 5, 14])
def test_methods_that_are_alike_are_seldom_distinguished_by_their_ranks(pairs: int) -> None:
    average = stats.rankdata(studies(pairs), axis=1).mean(axis=-1)
    _, p = iman_davenport(chi_square(average, pairs), pairs, CONTESTANTS)
    apart = average.max(axis=-1) - average.min(axis=-1) >= nemenyi(CONTESTANTS, pairs)
    assert ((p <= ALPHA) & apart).mean() <= ALPHA + SLACK
    # With few pairs F alone is a little too ready, as its docstring says.
    assert (p <= ALPHA).mean() <= (ALPHA + SLACK if pairs == 14 else 0.07)


@seeds_of_a_study
def test_the_public_functions_say_the_same_of_each_draw(seeds: int) -> None:
    rows = studies(seeds)[:10]
    means = student(rows[:, 0])
    for draw, table in enumerate(rows):
        values = {f"c{place}": dict(enumerate(row.tolist())) for place, row in enumerate(table)}
        for family, found in (("baseline", against_baseline(values, "c0")), ("all", between_all(values))):
            expected = holm(pair_ps(rows[draw : draw + 1], family))[0]
            assert [one.holm_p for one in found.comparisons] == pytest.approx(expected)
        low = interval(table[0].tolist()).low
        assert low == pytest.approx(float(means.mean[draw] - means.margin[draw]))
