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
        low: lower end of the interval; None with one pair, or where all differences are equal but not zero.
        high: its upper end; None likewise.
        p: two-sided p of the paired t test; 1 where every difference is zero; None likewise.
        count: number of pairs.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    count: int

    def told(self, digits: int = 2) -> str:
        """The difference in words, with so many decimals."""
        mean = f"{self.mean:+.{digits}f}"
        if self.low is None or self.high is None:
            return f"{mean} ({'one pair' if self.count == 1 else 'no spread between the pairs'}: no interval)"
        return f"{mean} [{self.low:+.{digits}f}, {self.high:+.{digits}f}], p = {self.p:.3g}, {self.count} pairs"

    def __str__(self) -> str:
        return self.told()


def paired_difference(a: Sequence[float], b: Sequence[float], *, level: float = 0.95) -> PairedDifference:
    """Mean of the paired differences b − a with Student's interval.

    Formula: ``d̄ ± t_{n−1,(1+level)/2} · s_d/√n``.

    Args:
        a: one value a seed.
        b: the other's values, in the same order of seeds.
        level: coverage of the interval, between 0 and 1.

    Returns:
        The difference; without interval and p where there is one pair, for one pair says nothing of the spread.

    Raises:
        BadInput: the lengths differ, there is no pair, a value is not finite, or the level is no coverage.

    >>> print(paired_difference([80.0, 81.0, 82.0], [82.0, 82.5, 84.5]))
    +2.00 [+0.76, +3.24], p = 0.0202, 3 pairs
    >>> print(paired_difference([80.0], [82.0]))
    +2.00 (one pair: no interval)
    """
    if len(a) != len(b) or not a:
        raise BadInput("pairs", (len(a), len(b)), "as many values of one as of the other, at least one")
    if not all(math.isfinite(value) for value in [*a, *b]):
        raise BadInput("pairs", [*a, *b], "finite values")
    if not 0 < level < 1:
        raise BadInput("level", level, "a coverage between 0 and 1, such as 0.95")
    differences = [y - x for x, y in zip(a, b, strict=True)]
    count = len(differences)
    mean = sum(differences) / count
    if count == 1:
        return PairedDifference(mean, None, None, None, count)
    spread = math.sqrt(sum((d - mean) ** 2 for d in differences) / (count - 1))
    if spread == 0:
        # Accuracies are counts, so few pairs can agree by chance: a spread of zero is then no knowledge of it.
        return (
            PairedDifference(mean, 0.0, 0.0, 1.0, count)
            if mean == 0
            else PairedDifference(mean, None, None, None, count)
        )
    error = spread / math.sqrt(count)
    margin = float(stats.t.ppf((1 + level) / 2, count - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, count - 1))
    return PairedDifference(mean, mean - margin, mean + margin, p, count)
