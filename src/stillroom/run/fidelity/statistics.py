"""How well one number predicts another over images and checkpoints: rank correlations, intervals, median ratio."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stillroom.schema.fidelity import MemberPrediction, RankCorrelation

Doubles = NDArray[np.float64]

# Numbers that are ranked in one go: resamples of all of them at once would fill the memory.
_AT_ONCE = 2_000_000


def resampled(images: int, resamples: int, seed: int) -> Doubles:
    """How often each image is drawn: once each in the first row, with replacement in those after it.

    Returns:
        [1 + resamples, images]; each row adds up to the number of images.

    >>> drawn = resampled(4, 2, seed=0)
    >>> drawn[0].tolist(), drawn.sum(1).tolist()
    ([1.0, 1.0, 1.0, 1.0], [4.0, 4.0, 4.0])
    """
    drawn = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)
    return np.concatenate([np.ones((1, images)), drawn.astype(np.float64)])


def predictions(values: Doubles, truths: Doubles, counts: Doubles) -> list[list[MemberPrediction]]:
    """How well each of several members predicts each of several divergences.

    Args:
        values: of each member, [V, C, I]: at C checkpoints for I images.
        truths: the divergences, [T, C, I].
        counts: how often each image is counted, [1 + R, I]: see :func:`resampled`.

    >>> truth = np.array([[1.0, 2.0, 3.0, 4.0]])
    >>> (found,) = predictions(np.stack([2 * truth, -truth]), truth[None], resampled(4, 0, seed=0))
    >>> [(one.pooled.value, one.ratio) for one in found]
    [(1.0, 2.0), (-1.0, -1.0)]
    """
    checkpoints = values.shape[1]
    pooled = np.empty((len(truths), len(values), len(counts)))
    within = np.empty((len(truths), len(values), checkpoints, len(counts)))
    step = max(_AT_ONCE // values[0].size, 1)
    for start in range(0, len(counts), step):
        rows = slice(start, start + step)
        weights = counts[rows]
        every = np.tile(weights, checkpoints)
        goals = [weighted_ranks(truth.reshape(-1), every) for truth in truths]
        for v, value in enumerate(values):
            ranks = weighted_ranks(value.reshape(-1), every)
            for t, goal in enumerate(goals):
                pooled[t, v, rows] = (ranks * goal).sum(1)
        for c in range(checkpoints):
            goals = [weighted_ranks(truth[c], weights) for truth in truths]
            for v, value in enumerate(values):
                ranks = weighted_ranks(value[c], weights)
                for t, goal in enumerate(goals):
                    within[t, v, c, rows] = (ranks * goal).sum(1)
    return [
        [
            MemberPrediction(
                pooled=_correlation(pooled[t, v]),
                within=_correlation(_mean_of_defined(within[t, v])),
                by_checkpoint=tuple(_or_none(float(each)) for each in within[t, v, :, 0]),
                ratio=median_ratio(value, truth),
            )
            for v, value in enumerate(values)
        ]
        for t, truth in enumerate(truths)
    ]


def weighted_ranks(values: Doubles, weights: Doubles) -> Doubles:
    """Ranks of values that are there several times each, made so that Σ a·b of two is Spearman's correlation.

    Values that are equal share the mean of their ranks.

    Args:
        values: [n].
        weights: how often each is there, [B, n]; whole numbers.

    Returns:
        [B, n]; NaN in rows where all values that are there are equal.

    >>> same, other = np.array([1.0, 5.0, 2.0]), np.array([10.0, 30.0, 20.0])
    >>> round(float((weighted_ranks(same, np.ones((1, 3))) * weighted_ranks(other, np.ones((1, 3)))).sum()), 6)
    1.0
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    last = np.append(ordered[1:] != ordered[:-1], True)
    group = np.concatenate([[0], np.cumsum(last)[:-1]])
    there = weights[:, order]
    upto = there.cumsum(1)[:, last]
    before = np.concatenate([np.zeros((len(upto), 1)), upto[:, :-1]], axis=1)
    ranks = ((before + upto + 1) / 2)[:, group]
    ranks -= (there * ranks).sum(1, keepdims=True) / there.sum(1, keepdims=True)
    ranks *= np.sqrt(there)
    length = np.sqrt(np.square(ranks).sum(1, keepdims=True))
    # Of a constant, rounding may leave less than half a rank.
    ranks /= np.where(length > 1e-9, length, np.nan)
    found = np.empty_like(ranks)
    found[:, order] = ranks
    return np.asarray(found)


def median_ratio(values: Doubles, truth: Doubles) -> float | None:
    """The median of value over truth, where the truth is above 0; None where it nowhere is.

    >>> median_ratio(np.array([1.0, 3.0, 9.0]), np.array([2.0, 2.0, 0.0]))
    1.0
    """
    there = truth > 0
    return float(np.median(values[there] / truth[there])) if there.any() else None


def _correlation(samples: Doubles) -> RankCorrelation:
    value, drawn = samples[0], samples[1:]
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or not len(drawn):
        return RankCorrelation(value=_or_none(float(value)), low=None, high=None)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return RankCorrelation(value=_or_none(float(value)), low=_or_none(float(low)), high=_or_none(float(high)))


def _mean_of_defined(samples: Doubles) -> Doubles:
    """The mean over checkpoints [C, R] of those at which there is a correlation: [R], NaN where there is none."""
    there = np.isfinite(samples)
    return np.asarray(np.where(there, samples, 0).sum(0) / np.where(there.any(0), there.sum(0), np.nan))


def _or_none(value: float) -> float | None:
    # Rounding can leave a hair above 1.
    return min(max(value, -1.0), 1.0) if np.isfinite(value) else None
