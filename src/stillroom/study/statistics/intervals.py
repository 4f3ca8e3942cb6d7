"""One method over its seeds: the mean, and how far another draw of seeds could move it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stillroom.errors import BadInput
from stillroom.study.statistics.checks import check_share, is_value
from stillroom.study.statistics.core import number, student


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with Student's interval.

    Attributes:
        mean: the mean.
        sd: the sample's standard deviation; None with one seed.
        low: lower end of the interval; None with one seed, or where all values are equal.
        high: its upper end; None likewise.
        count: number of seeds.
        level: coverage of the interval.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    count: int
    level: float

    def told(self, digits: int = 2) -> str:
        """The mean in words, with so many decimals."""
        mean = f"{self.mean:.{digits}f}"
        if self.low is None or self.high is None:
            return f"{mean} ({'one seed' if self.count == 1 else 'no spread between the seeds'}: no interval)"
        return f"{mean} [{self.low:.{digits}f}, {self.high:.{digits}f}], {self.count} seeds"

    def as_dict(self) -> dict[str, Any]:
        """The fields for JSON; null where there is no interval."""
        return asdict(self)

    def __str__(self) -> str:
        return self.told()


def interval(values: Sequence[float], *, level: float = 0.95) -> Interval:
    """Mean of the values with Student's interval.

    Formula: ``x̄ ± t_{n−1,(1+level)/2} · s/√n``.

    Args:
        values: one a seed, in any unit; the seeds fixed before looking.
        level: coverage of the interval, between 0 and 1.

    Returns:
        The mean; without interval where there is one seed, which says nothing of the spread, or where all values are
        equal: an interval of no width would claim to know the mean of all seeds exactly.

    Raises:
        BadInput: there is no value, one is not finite, or the level is no coverage.

    >>> print(interval([80.0, 81.0, 82.0]))
    81.00 [78.52, 83.48], 3 seeds
    >>> print(interval([80.0]))
    80.00 (one seed: no interval)
    """
    if len(values) == 0:
        raise BadInput("values", values, "at least one")
    if not all(is_value(value) for value in values):
        raise BadInput("values", list(values), "finite values")
    check_share("level", level, "a coverage between 0 and 1, such as 0.95")
    found = student(np.asarray(values, dtype=np.float64), level=level)
    mean, margin = float(found.mean), number(found.margin)
    low, high = (None, None) if margin is None else (mean - margin, mean + margin)
    return Interval(mean, number(found.sd), low, high, len(values), level)
