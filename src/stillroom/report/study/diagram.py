"""The critical-difference diagram: average ranks on an axis, and bars over those that are not told apart."""

from __future__ import annotations

from dataclasses import dataclass

from stillroom.report.formats import short
from stillroom.report.study.model import Ranks

WIDTH = 940.0
_LEFT, _RIGHT = 280.0, 660.0
_AXIS = 58.0
_BAR, _NAME = 9.0, 21.0
_LETTERS = 26


@dataclass(frozen=True)
class Name:
    """A method: where its rank is on the axis, and the row and side that its name stands in."""

    text: str
    whole: str
    rank: str
    x: float
    y: float
    is_left: bool


@dataclass(frozen=True)
class Bar:
    """A stretch of the axis whose methods are not told apart."""

    start: float
    end: float
    y: float


@dataclass(frozen=True)
class Diagram:
    """Everything the template draws, in pixels."""

    height: float
    axis: float
    left: float
    right: float
    ticks: tuple[tuple[float, str], ...]
    ruler: tuple[float, float] | None
    ruler_text: str
    names: tuple[Name, ...]
    bars: tuple[Bar, ...]


def diagram(ranks: Ranks) -> Diagram | None:
    """The diagram; None where there is no test, so that no picture claims what no test has found."""
    count = len(ranks.names)
    if ranks.critical_difference is None or len(ranks.average) != count or count < 2:
        return None
    per_rank = (_RIGHT - _LEFT) / (count - 1)

    def at(rank: float) -> float:
        return round(_LEFT + (min(max(rank, 1.0), float(count)) - 1) * per_rank, 1)

    places = dict(zip(ranks.names, ranks.average, strict=True))
    bars = _bars([(at(min(held)), at(max(held))) for held in ([places[n] for n in bar] for bar in ranks.bars) if held])
    levels = len({bar.y for bar in bars})
    first = _AXIS + 14 + levels * _BAR + 16
    half = (count + 1) // 2
    names = [
        Name(
            text=short(name, _LETTERS),
            whole=name,
            rank=f"{rank:.2f}",
            x=at(rank),
            # Those further out stand higher, so that no line crosses another.
            y=first + _NAME * (number if number < half else count - 1 - number),
            is_left=number < half,
        )
        for number, (name, rank) in enumerate(places.items())
    ]
    step = max(1, -(-(count - 1) // 15))
    fits = ranks.critical_difference <= count - 1
    length = min(ranks.critical_difference * per_rank, _RIGHT - _LEFT)
    words = f"critical difference {ranks.critical_difference:.2f}"
    return Diagram(
        height=max(name.y for name in names) + 14,
        axis=_AXIS,
        left=_LEFT,
        right=_RIGHT,
        ticks=tuple((at(rank), str(rank)) for rank in range(1, count + 1, step)),
        ruler=(_LEFT, round(_LEFT + length, 1)) if fits else None,
        ruler_text=words if fits else f"{words}, longer than the axis",
        names=tuple(names),
        bars=bars,
    )


def _bars(spans: list[tuple[float, float]]) -> tuple[Bar, ...]:
    """The bars, each on the first level where it touches no other."""
    levels: list[float] = []
    found = []
    for start, end in sorted(spans):
        level = next((place for place, taken in enumerate(levels) if taken < start - 8), len(levels))
        levels[level : level + 1] = [end]
        found.append(Bar(start - 4, end + 4, _AXIS + 12 + level * _BAR))
    return tuple(found)
