"""The arithmetic, over arrays whose last axis is the seeds or the tests: one comparison, or ten thousand drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import SupportsFloat

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Doubles = NDArray[np.float64]

# What 100·correct/count and a subtraction can lose, as a share of the larger value; no measurement is so fine.
_ROUNDING = 8 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Student:
    """Means with Student's margins, each array without the axis of the seeds.

    Attributes:
        mean: the mean.
        sd: the sample's standard deviation, n − 1 degrees of freedom; NaN with one seed.
        margin: half the interval; NaN with one seed, and where the seeds show no spread.
    """

    mean: Doubles
    sd: Doubles
    margin: Doubles


@dataclass(frozen=True)
class PairedT(Student):
    """Paired differences: as :class:`Student`, with the two-sided p (NaN where there is no test)."""

    p: Doubles


def student(values: Doubles, *, level: float = 0.95, size: Doubles | None = None) -> Student:
    """Mean, standard deviation and half of Student's interval.

    Formula: ``x̄ ± t_{n−1,(1+level)/2} · s/√n``.

    Args:
        values: [..., n], n seeds.
        level: coverage, between 0 and 1.
        size: the largest value [...] that the values were worked out from; theirs by default. A spread that rounding
            of such values explains counts as none.

    Returns:
        Arrays [...], in the values' unit.

    >>> found = student(np.array([80.0, 81.0, 82.0]))
    >>> float(found.mean), float(found.sd), round(float(found.margin), 3)
    (81.0, 1.0, 2.484)
    """
    count = values.shape[-1]
    mean = np.asarray(values.mean(axis=-1))
    if count == 1:
        return Student(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    # 82.31 − 82.21 and 81.11 − 81.01 differ in the 14th digit: taken as a spread, it would give p = 1e-13.
    rounding = _ROUNDING * (np.abs(values).max(axis=-1) if size is None else size)
    sd = values.std(axis=-1, ddof=1)
    sd = np.where(sd <= rounding, 0.0, sd)
    quantile = float(stats.t.ppf((1 + level) / 2, count - 1))
    return Student(mean, sd, np.where(sd > 0, quantile * sd / math.sqrt(count), np.nan))


def paired_t(a: Doubles, b: Doubles, *, level: float = 0.95) -> PairedT:
    """The paired t test of b − a.

    Formula: ``t = d̄ / (s_d/√n)``, ``p = 2·P(T_{n−1} ≥ |t|)``.

    Args:
        a: [..., n], n seeds.
        b: the other's, of the same seeds.
        level: coverage of the interval.

    Returns:
        Arrays [...]. Differences that are all zero have p = 1 and a margin of 0. Differences that are all equal but
        not zero have neither: t would be infinite and p = 0, the strongest claim from the poorest data, when what
        happened is that counted accuracies agreed by chance or that the seeds are copies of one run.

    >>> found = paired_t(np.array([[80.0, 81.0], [5.0, 5.0]]), np.array([[80.0, 81.0], [6.0, 6.0]]))
    >>> found.p.tolist()
    [1.0, nan]
    """
    size = np.maximum(np.abs(a).max(axis=-1), np.abs(b).max(axis=-1))
    found = student(b - a, level=level, size=size)
    count = a.shape[-1]
    if count == 1:
        return PairedT(found.mean, found.sd, found.margin, np.full_like(found.mean, np.nan))
    zero = (found.sd == 0) & (np.abs(found.mean) <= _ROUNDING * size)
    spread = np.where(found.sd > 0, found.sd, 1.0)
    p = np.minimum(2 * stats.t.sf(np.abs(found.mean) * math.sqrt(count) / spread, count - 1), 1.0)
    p = np.where(found.sd > 0, p, np.where(zero, 1.0, np.nan))
    return PairedT(np.where(zero, 0.0, found.mean), found.sd, np.where(zero, 0.0, found.margin), p)


def holm(p: Doubles) -> Doubles:
    """Holm's adjusted p: at most α of all families without a true difference have one of them at α or below.

    Formula: sorted upwards, ``p̃_(i) = max_{j≤i} min(1, (m − j + 1)·p_(j))``.

    Args:
        p: [..., m], the m tests of a family; NaN where there was no test. It still counts among the m, as if its p
            were 1, so that a test that fell out makes no other one easier.

    Returns:
        [..., m], NaN where p is.

    Paper:
        Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.

    >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    known = np.where(np.isnan(p), 1.0, p)
    order = np.argsort(known, axis=-1, kind="stable")
    steps = np.take_along_axis(known, order, axis=-1) * np.arange(p.shape[-1], 0, -1)
    adjusted = np.empty_like(known)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(steps, axis=-1), 1.0), axis=-1)
    return np.where(np.isnan(p), np.nan, adjusted)


def hedges(count: int) -> float:
    """What makes d_z = d̄/s_d unbiased, for few seeds overstate it: by a quarter with five.

    Formula: ``J(ν) = Γ(ν/2) / (√(ν/2)·Γ((ν−1)/2))``, ν = n − 1.

    Args:
        count: number of seeds n.

    Returns:
        A factor below 1; 0 with two seeds, where d_z has no mean that could be corrected, and with fewer.

    Paper:
        Hedges, Distribution theory for Glass's estimator of effect size and related estimators, Journal of
        Educational Statistics 6, 1981.

    >>> round(hedges(5), 3), hedges(2)
    (0.798, 0.0)
    """
    if count < 3:
        return 0.0
    half = (count - 1) / 2
    return math.exp(math.lgamma(half) - math.lgamma(half - 0.5)) / math.sqrt(half)


def number(value: SupportsFloat) -> float | None:
    """A number of an array without axes as Python's own; None where there is none (NaN).

    >>> number(np.array(1.5)), number(np.nan)
    (1.5, None)
    """
    found = float(value)
    return None if math.isnan(found) else found
