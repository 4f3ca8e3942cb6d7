"""How well one number tells another over images and checkpoints: rank correlations, intervals, the usual ratio."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

# Numbers that are ranked in one go: resamples of all of them at once would fill the memory.
_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Correlation:
    """Spearman's correlation and its 95% interval over the draw of images; None where one of the two is constant."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Prediction:
    """How well a member tells a divergence.

    Attributes:
        pooled: over images and checkpoints together.
        within: over the images of a checkpoint, the mean over checkpoints.
        by_checkpoint: the same of each.
        ratio: the median of its value over the divergence's.
    """

    pooled: Correlation
    within: Correlation
    by_checkpoint: tuple[float | None, ...]
    ratio: float | None


def resampled(images: int, resamples: int, seed: int) -> Doubles:
    """How often each image is drawn: once each in the first row, with replacement in those after it.

    Args:
        images: their number.
        resamples: rows beyond the first.
        seed: of the draws.

    Returns:
        [1 + resamples, images]; each row adds up to the number of images.

    >>> drawn = resampled(4, 2, seed=0)
    >>> drawn[0].tolist(), drawn.sum(1).tolist()
    ([1.0, 1.0, 1.0, 1.0], [4.0, 4.0, 4.0])
    """
    drawn = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)
    return np.concatenate([np.ones((1, images)), drawn.astype(np.float64)])


def predictions(values: Doubles, truths: Doubles, counts: Doubles) -> list[list[Prediction]]:
    """How well each of several members tells each of several divergences.

    Args:
        values: of each member, [V, C, I]: at C checkpoints for I images.
        truths: the divergences, [T, C, I].
        counts: how often each image is counted, [1 + R, I]: see :func:`resampled`.

    Returns:
        Of each divergence, one for each member.

    >>> truth = np.array([[1.0, 2.0, 3.0, 4.0]])
    >>> (told,) = predictions(np.stack([2 * truth, -truth]), truth[None], resampled(4, 0, seed=0))
    >>> [(one.pooled.value, one.ratio) for one in told]
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
        goals = [standing(truth.reshape(-1), every) for truth in truths]
        for v, value in enumerate(values):
            stands = standing(value.reshape(-1), every)
            for t, goal in enumerate(goals):
                pooled[t, v, rows] = (stands * goal).sum(1)
        for c in range(checkpoints):
            goals = [standing(truth[c], weights) for truth in truths]
            for v, value in enumerate(values):
                stands = standing(value[c], weights)
                for t, goal in enumerate(goals):
                    within[t, v, c, rows] = (stands * goal).sum(1)
    return [
        [
            Prediction(
                pooled=_correlation(pooled[t, v]),
                within=_correlation(_mean_of_defined(within[t, v])),
                by_checkpoint=tuple(_or_none(float(each)) for each in within[t, v, :, 0]),
                ratio=median_ratio(value, truth),
            )
            for v, value in enumerate(values)
        ]
        for t, truth in enumerate(truths)
    ]


def standing(values: Doubles, weights: Doubles) -> Doubles:
    """Ranks of values that are there several times each, made so that Σ a·b of two is Spearman's correlation.

    Values that are equal share the mean of their ranks.

    Args:
        values: [n].
        weights: how often each is there, [B, n]; whole numbers.

    Returns:
        [B, n]; NaN in rows where all values that are there are equal.

    >>> same, other = np.array([1.0, 5.0, 2.0]), np.array([10.0, 30.0, 20.0])
    >>> round(float((standing(same, np.ones((1, 3))) * standing(other, np.ones((1, 3)))).sum()), 6)
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


def _correlation(samples: Doubles) -> Correlation:
    value, drawn = samples[0], samples[1:]
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or not len(drawn):
        return Correlation(_or_none(float(value)), None, None)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Correlation(_or_none(float(value)), _or_none(float(low)), _or_none(float(high)))


def _mean_of_defined(samples: Doubles) -> Doubles:
    """The mean over checkpoints [C, R] of those at which there is a correlation: [R], NaN where there is none."""
    there = np.isfinite(samples)
    return np.asarray(np.where(there, samples, 0).sum(0) / np.where(there.any(0), there.sum(0), np.nan))


def _or_none(value: float) -> float | None:
    # Rounding can leave a hair above 1.
    return min(max(value, -1.0), 1.0) if np.isfinite(value) else None
