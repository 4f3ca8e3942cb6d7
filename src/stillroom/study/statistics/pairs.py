"""Two methods over the same seeds: what is common to a seed cancels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stillroom.errors import BadInput
from stillroom.study.statistics.checks import check_share, is_value
from stillroom.study.statistics.core import hedges, number, paired_t


@dataclass(frozen=True)
class PairedDifference:
    """How much better b is than a, over pairs of the same seed.

    Attributes:
        mean: mean of b − a.
        low: lower end of the interval; None with one pair, or where all differences are equal but not zero.
        high: its upper end; None likewise.
        p: two-sided p of the paired t test; 1 where every difference is zero; None likewise.
        count: number of pairs.
        sd: standard deviation of the differences; None with one pair.
        effect: d_z, the mean difference in standard deviations of the differences, with Hedges' correction; None with
            fewer than three pairs, where it cannot be corrected, or without spread.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    count: int
    sd: float | None = None
    effect: float | None = None

    def told(self, digits: int = 2) -> str:
        """The difference in words, with so many decimals."""
        mean = f"{self.mean:+.{digits}f}"
        if self.low is None or self.high is None:
            return f"{mean} ({'one pair' if self.count == 1 else 'no spread between the pairs'}: no interval)"
        return f"{mean} [{self.low:+.{digits}f}, {self.high:+.{digits}f}], p = {self.p:.3g}, {self.count} pairs"

    def as_dict(self) -> dict[str, Any]:
        """The fields for JSON; null where there is none."""
        return asdict(self)

    def __str__(self) -> str:
        return self.told()


def paired_difference(a: Sequence[float], b: Sequence[float], *, level: float = 0.95) -> PairedDifference:
    """Mean of the paired differences b − a with Student's interval.

    Formula: ``d̄ ± t_{n−1,(1+level)/2} · s_d/√n``; effect ``d_z = J(n−1)·d̄/s_d``.

    Args:
        a: one value a seed.
        b: the other's values, in the same order of seeds.
        level: coverage of the interval, between 0 and 1.

    Returns:
        The difference; without interval and p where there is one pair, for one pair says nothing of the spread, and
        where all differences are equal but not zero: the formula's p = 0 would be the strongest claim from the
        poorest data. Differences that rounding explains count as equal.

    Raises:
        BadInput: the lengths differ, there is no pair, a value is not finite, or the level is no coverage.

    >>> print(paired_difference([80.0, 81.0, 82.0], [82.0, 82.5, 84.5]))
    +2.00 [+0.76, +3.24], p = 0.0202, 3 pairs
    >>> print(paired_difference([80.0], [82.0]))
    +2.00 (one pair: no interval)
    """
    if len(a) != len(b) or len(a) == 0:
        raise BadInput("pairs", (len(a), len(b)), "as many values of one as of the other, at least one")
    if not all(is_value(value) for value in [*a, *b]):
        raise BadInput("pairs", [*a, *b], "finite values")
    check_share("level", level, "a coverage between 0 and 1, such as 0.95")
    found = paired_t(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64), level=level)
    count, mean, sd, margin = len(a), float(found.mean), number(found.sd), number(found.margin)
    low, high = (None, None) if margin is None else (mean - margin, mean + margin)
    effect = hedges(count) * mean / sd if sd and count > 2 else None
    return PairedDifference(mean, low, high, number(found.p), count, sd, effect)
