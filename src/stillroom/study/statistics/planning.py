"""How many seeds would settle a difference that these left undecided: for planning the next study, not this one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import special, stats

from stillroom.errors import BadInput
from stillroom.study.statistics.checks import check_alpha, check_share
from stillroom.study.statistics.pairs import PairedDifference, paired_difference

# Gauss and Legendre's rule on [0, 1]: within 1e-5 of the noncentral t wherever scipy has that.
_NODES, _WEIGHTS = (np.polynomial.legendre.leggauss(128) + np.array([[1.0], [0.0]])) / 2

PLANNING_CAUTION = (
    "How many seeds is an estimate from these few, for planning only: a difference that luck made large asks for too "
    "few. Adding seeds until p is small finds differences that are not there; declare the new number of seeds first, "
    "then test the new seeds by themselves, or share alpha between looks that were planned beforehand."
)


@dataclass(frozen=True)
class Plan:
    """How many seeds would settle it.

    Attributes:
        count: the seeds there are.
        seeds: the seeds in all that it would take; None beyond the cap, or where there is no telling.
        power: the chance that so many seeds find the difference, were it what it seems.
        alpha: the p that would settle it.
        cap: the largest number that was tried.
        why: why there is no telling; None where there is.
    """

    count: int
    seeds: int | None
    power: float
    alpha: float
    cap: int
    why: str | None = None

    @property
    def more(self) -> int | None:
        """How many seeds more than there are; None where their number is not known."""
        return None if self.seeds is None else self.seeds - self.count

    def told(self) -> str:
        """The number in words; :data:`PLANNING_CAUTION` belongs beside it."""
        if self.why is not None:
            return f"no telling how many seeds would settle it: {self.why}"
        if self.seeds is None:
            return f"more than {self.cap:,} seeds would settle it, if any"
        return f"about {self.seeds:,} seeds in all ({self.more:,} more) would settle it with power {self.power:g}"

    def as_dict(self) -> dict[str, Any]:
        """The fields and ``more`` for JSON."""
        return {**asdict(self), "more": self.more}

    def __str__(self) -> str:
        return self.told()


def power_of(effect: float, count: int, alpha: float = 0.05) -> float:
    """The chance that the two-sided paired t test finds a difference.

    Formula: ``E_s[Φ(δ − c·s) + Φ(−δ − c·s)]`` with ``δ = |d|·√n``, ``c = t_{n−1,1−α/2}`` and ``s² ~ χ²_{n−1}/(n−1)``:
    the tails of the noncentral t, which ``scipy.stats.nct`` gives as NaN for many large δ with few seeds.

    Args:
        effect: the true difference in standard deviations of the differences.
        count: number of seeds, at least 2.
        alpha: the p at which it counts as found.

    Returns:
        A probability.

    >>> round(power_of(0.5, 34), 3)
    0.808
    """
    freedom = (count - 1) / 2
    shift, critical = abs(effect) * math.sqrt(count), float(stats.t.isf(alpha / 2, count - 1))

    # Over the shares of s, in two pieces: where c·s passes δ the integrand falls from 1 to 0, for large c as a cliff.
    cliff = float(special.gammainc(freedom, freedom * (shift / critical) ** 2))
    ends = [0.0, cliff, 1.0] if 0 < cliff < 1 else [0.0, 1.0]
    total = 0.0
    for low, high in pairwise(ends):
        at = critical * np.sqrt(special.gammaincinv(freedom, low + (high - low) * _NODES) / freedom)
        total += (high - low) * float(_WEIGHTS @ (special.ndtr(shift - at) + special.ndtr(-shift - at)))
    return min(total, 1.0)


def seeds_to_settle(
    differences: Sequence[float], *, power: float = 0.8, alpha: float = 0.05, cap: int = 1000
) -> Plan | None:
    """How many seeds would settle a difference, were its mean and spread what they seem.

    Formula: the smallest n whose paired t test at α has the power for ``d = d̄/s_d``.

    An estimate from the same few seeds, for planning only. The observed d̄/s_d is itself uncertain: the true number
    may well be several times more. And it must not become "add seeds until p is small": each look at the growing
    data is another chance of a false finding, so that α is no longer the rate of them. Declare the new number of
    seeds first and test the new seeds by themselves; or plan the looks beforehand and give each its share of α.

    Args:
        differences: the paired differences, one a seed.
        power: the chance of finding it that is wanted.
        alpha: the p that settles it; for a family the corrected one, which its comparisons' plans take.
        cap: the largest number of seeds to try.

    Returns:
        The plan, which says why where there is no telling (one seed, no spread, no difference); None where the
        differences are decided already.

    Raises:
        BadInput: there is no difference, one is not finite, or power, alpha or cap are none.

    >>> print(seeds_to_settle([0.2, 1.1, -0.4]))
    about 52 seeds in all (49 more) would settle it with power 0.8
    >>> print(seeds_to_settle([2.0, 1.5, 2.5]))
    None
    """
    return plan(paired_difference(np.zeros(len(differences)).tolist(), differences), power=power, alpha=alpha, cap=cap)


def plan(found: PairedDifference, *, power: float = 0.8, alpha: float = 0.05, cap: int = 1000) -> Plan | None:
    """As :func:`seeds_to_settle`, of a difference worked out already."""
    check_share("power", power, "a chance between 0 and 1, such as 0.8")
    check_alpha(alpha)
    if cap < 2:
        raise BadInput("cap", cap, "at least 2 seeds")
    why = None
    if found.count == 1:
        why = "one seed shows no spread"
    elif found.sd == 0:
        why = "the seeds show no spread" if found.mean else "no seed shows a difference"
    if why is not None:
        return Plan(found.count, None, power, alpha, cap, why)
    if found.p is None or found.p <= alpha or found.sd is None:
        return None
    effect = found.mean / found.sd
    # Power grows with the seeds. These did not settle it, so that it takes one more at least.
    low, high = found.count + 1, max(cap, found.count + 1)
    if high > cap or power_of(effect, high, alpha) < power:
        return Plan(found.count, None, power, alpha, cap)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(effect, middle, alpha) >= power else (middle + 1, high)
    return Plan(found.count, low, power, alpha, cap)
