"""Means with their intervals as small drawings on one scale: places in pixels, which the template draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stillroom.report.formats import MINUS

WIDTH = 200.0
_EDGE = 10.0
# Further out than this many times the spread of the means, an interval is cut: with two seeds one can be so wide that
# every other would shrink to a point.
_REACH = 1.5
_TICK_LETTERS = 18


@dataclass(frozen=True)
class Dot:
    """A mean and its interval in pixels; ``None`` where there is none, cut where it leaves the drawing."""

    x: float
    low: float | None
    high: float | None
    cut_low: bool
    cut_high: bool


@dataclass(frozen=True)
class Scale:
    """From values to pixels, and the ticks worth a number."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        """Where a value is drawn, within the drawing."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(_EDGE + (WIDTH - 2 * _EDGE) * min(max(share, 0.0), 1.0), 1)

    def dot(self, mean: float, low: float | None, high: float | None) -> Dot:
        """A mean and its interval in pixels."""
        if low is None or high is None:
            return Dot(self.at(mean), None, None, False, False)
        return Dot(self.at(mean), self.at(low), self.at(high), low < self.low, high > self.high)


def scale(values: Sequence[tuple[float, float | None, float | None]]) -> Scale:
    """The scale that holds these means, and their intervals where those are not much wider than the means' spread.

    Args:
        values: mean, low, high; at least one.
    """
    means = [mean for mean, _, _ in values]
    margins = sorted(mean - low for mean, low, _ in values if low is not None)
    spread = max(max(means) - min(means), margins[len(margins) // 2] if margins else 0.0)
    lows = [low for _, low, _ in values if low is not None]
    highs = [high for _, _, high in values if high is not None]
    start = max(min([*means, *lows]), min(means) - _REACH * spread)
    end = min(max([*means, *highs]), max(means) + _REACH * spread)
    if not end > start or not math.isfinite(end - start):
        return Scale(means[0], means[0], ((WIDTH / 2, _tick(means[0], 0.0)),))
    plain = Scale(start, end, ())
    for most in (4, 2, 1):
        ticks = [(plain.at(tick), _tick(tick, end - start)) for tick in nice(start, end, most)]
        if sum(len(text) for _, text in ticks) <= _TICK_LETTERS:
            break
    return Scale(start, end, tuple(ticks))


def nice(low: float, high: float, most: int = 4) -> list[float]:
    """Round numbers between two others, at most so many, at least one.

    >>> nice(59.2, 63.9), nice(0.0, 1.0)
    ([60.0, 61.0, 62.0, 63.0], [0.0, 0.5, 1.0])
    """
    step = 10.0 ** math.floor(math.log10(high - low))
    for factor in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0):
        first, last = math.ceil(low / (step * factor) - 1e-9), math.floor(high / (step * factor) + 1e-9)
        if last - first < most:
            return [place * step * factor for place in range(first, last + 1)] or [low]
    return [low]


def _tick(value: float, span: float) -> str:
    if abs(value) >= 1e6 or (value and abs(value) < 1e-4):
        text = f"{value:.2g}"
    else:
        digits = max(0, -math.floor(math.log10(span / 4))) if span > 0 else 2
        text = f"{value:.{min(digits, 6)}f}"
    return text.replace("-", MINUS, 1) if value < 0 else text
