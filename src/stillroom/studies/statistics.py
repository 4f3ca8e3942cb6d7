"""Honest comparisons of few runs: paired by seed, with an interval, or none where there is too little to say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from stillroom.errors import BadInput


@dataclass(frozen=True)
class PairedDifference:
    """How much better b is than a, over pairs of the same seed.

    Attributes:
        mean: mean of b − a.
        low: lower end of the 95% interval; None with one pair.
        high: its upper end; None with one pair.
        p: two-sided p of the paired t test; 1 where every difference is zero; None with one pair.
        count: number of pairs.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    count: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:+.2f} (one pair: no interval)"
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}], p = {self.p:.3g}, {self.count} pairs"


def paired_difference(a: Sequence[float], b: Sequence[float], *, level: float = 0.95) -> PairedDifference:
    """Mean of the paired differences b − a with Student's interval.

    Formula: ``d̄ ± t_{n−1,(1+level)/2} · s_d/√n``.

    Args:
        a: one value a seed.
        b: the other's values, in the same order of seeds.
        level: coverage of the interval.

    Returns:
        The difference; without interval and p where there is one pair, for one pair says nothing of the spread.

    Raises:
        BadInput: the lengths differ, there is no pair, or a value is not finite.

    >>> print(paired_difference([80.0, 81.0, 82.0], [82.0, 82.5, 84.5]))
    +2.00 [+0.76, +3.24], p = 0.0202, 3 pairs
    >>> print(paired_difference([80.0], [82.0]))
    +2.00 (one pair: no interval)
    """
    if len(a) != len(b) or not a:
        raise BadInput("pairs", (len(a), len(b)), "as many values of one as of the other, at least one")
    if not all(math.isfinite(value) for value in [*a, *b]):
        raise BadInput("pairs", [*a, *b], "finite values")
    differences = [y - x for x, y in zip(a, b, strict=True)]
    count = len(differences)
    mean = sum(differences) / count
    if count == 1:
        return PairedDifference(mean, None, None, None, count)
    spread = math.sqrt(sum((d - mean) ** 2 for d in differences) / (count - 1))
    if spread == 0:
        # No spread: the t statistic is 0/0 when nothing differs, and infinite otherwise.
        return PairedDifference(mean, mean, mean, 1.0 if mean == 0 else 0.0, count)
    error = spread / math.sqrt(count)
    margin = float(stats.t.ppf((1 + level) / 2, count - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, count - 1))
    return PairedDifference(mean, mean - margin, mean + margin, p, count)
