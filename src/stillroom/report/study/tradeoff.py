"""The measure against what it cost: one plot a pair and kind of cost, with the front of what nothing else beats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from stillroom.report.figures import Chart, Figure, axis, escaped, layout, rounded
from stillroom.report.formats import amount, short
from stillroom.report.palette import LIGHT
from stillroom.report.study.costs import KINDS, Costs, Kind
from stillroom.report.study.looks import Look
from stillroom.report.study.model import Measure, Pair, Study
from stillroom.report.words import join

# A plot as most screens show it, in pixels; by it names are placed so that they do not lie over one another.
_WIDTH, _HEIGHT, _LETTER, _LINE = 900.0, 300.0, 7.0, 16.0
# Of more points than this, those on the front alone are named; more names than this are too many for a phone.
_NAMED, _FEW = 12, 6
Range = tuple[float, float]


@dataclass(frozen=True)
class Point:
    """A method: its cost, its mean, its interval."""

    name: str
    x: float
    y: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Choice:
    """A kind of cost on a pair: a plot, or the words that say why there is none."""

    kind: Kind
    chart: Chart | None
    words: str


@dataclass(frozen=True)
class TradeOff:
    """A pair, with every kind of cost."""

    pair: Pair
    choices: tuple[Choice, ...]


def trade_offs(study: Study, costs: Costs, look: Mapping[str, Look]) -> tuple[TradeOff, ...]:
    """The plots, in the order of the pairs and of the kinds of cost."""
    return tuple(
        TradeOff(pair, tuple(_choice(study, f"cost-{place}-{kind.key}", pair, kind, costs, look) for kind in KINDS))
        for place, pair in enumerate(study.pairs)
    )


def first_choice(trade_offs: Sequence[TradeOff]) -> str:
    """The kind of cost that is shown at first: one that has a plot somewhere."""
    plotted = [choice.kind.key for each in trade_offs for choice in each.choices if choice.chart is not None]
    return next((kind.key for kind in KINDS if kind.key in plotted), KINDS[0].key)


def front(points: Sequence[Point], higher_is_better: bool) -> list[Point]:
    """Those that no other beats in one without losing in the other, the cheapest first.

    >>> found = [Point("a", 1, 60, None, None), Point("b", 2, 59, None, None), Point("c", 3, 61, None, None)]
    >>> [point.name for point in front(found, True)], [point.name for point in front(found, False)]
    (['a', 'c'], ['a', 'b'])
    """
    sign = -1.0 if higher_is_better else 1.0
    kept: list[Point] = []
    for point in sorted(points, key=lambda one: (one.x, sign * one.y)):
        # Two with the same cost and the same mean are both on it.
        if not kept or sign * point.y < sign * kept[-1].y or (point.x, point.y) == (kept[-1].x, kept[-1].y):
            kept.append(point)
    return kept


def _choice(study: Study, key: str, pair: Pair, kind: Kind, costs: Costs, look: Mapping[str, Look]) -> Choice:
    points, absent = [], []
    for name in study.names:
        cell = study.cells.get((pair.name, name))
        x = costs.medians.get((pair.name, name), {}).get(kind.key)
        if cell is not None and cell.mean is not None and x is not None:
            points.append(Point(name, x, cell.mean, cell.low, cell.high))
        else:
            absent.append(name)
    if not points:
        return Choice(kind, None, f"{kind.title}: not recorded for any run of this pair.")
    if len(points) == 1:
        only = f"{points[0].name}, {kind.written(points[0].x)}"
        return Choice(kind, None, f"{kind.title}: known of {only} alone; there is nothing to weigh against it.")
    if len({point.x for point in points}) == 1:
        same = f"{kind.title}: the same for all, {kind.written(points[0].x)}"
        why = ", for all train the same student" if kind.key in ("parameters", "multiply_adds") else ""
        return Choice(kind, None, f"{same}{why}. What they differ in is the measure alone: see the table.")
    return Choice(kind, _chart(study, key, kind, points, absent, look), "")


def _chart(
    study: Study, key: str, kind: Kind, points: list[Point], absent: list[str], look: Mapping[str, Look]
) -> Chart:
    best = front(points, study.measure.higher_is_better)
    low, high = min(point.x for point in points), max(point.x for point in points)
    is_log = low > 0 and high / low > 30
    x_range, y_range = _across(low, high, is_log), _room(points)
    title = f"{kind.title.lower()}, {kind.unit}{' (log scale)' if is_log else ''}"
    # A logarithmic axis takes the exponents of its ends.
    ends = [math.log10(end) for end in x_range] if is_log else list(x_range)
    placed = [replace(point, x=math.log10(point.x)) for point in points] if is_log else points
    names = _labels(placed, {point.name for point in best}, (ends[0], ends[1]), y_range)
    figure = {
        "data": [_steps(best, x_range[1]), _dots(study.measure, kind, points, best, look, names)],
        "layout": layout(
            xaxis=axis(title, tickformat=kind.ticks, type="log" if is_log else "linear", range=ends),
            yaxis=axis(f"{study.measure.label}, {study.measure.place}", range=list(y_range)),
            hovermode="closest",
        ),
    }
    heading = f"{study.measure.heading} against {kind.title.lower()}"
    return Chart(key, heading, _words(study, kind, best, absent), 400, figure)


def _across(low: float, high: float, is_log: bool) -> Range:
    if is_log:
        return low / 1.4, high * 1.8
    return 0.0 if 0 <= low < 0.5 * high else low - 0.1 * (high - low), high + 0.14 * (high - low)


def _steps(best: Sequence[Point], beyond: float) -> Figure:
    """The front as steps: the best that is to be had up to each cost."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": rounded([*(point.x for point in best), beyond]),
        "y": rounded([*(point.y for point in best), best[-1].y]),
        "name": "Pareto front",
        "line": {"color": LIGHT["axis"], "width": 1.6, "shape": "hv", "dash": "dot"},
        "hoverinfo": "skip",
    }


def _dots(
    measure: Measure,
    kind: Kind,
    points: Sequence[Point],
    best: Sequence[Point],
    look: Mapping[str, Look],
    names: tuple[list[str], list[str]],
) -> Figure:
    on_front = {point.name for point in best}
    suffixes = ["" if point.name in on_front else "-open" for point in points]
    above = [point.high - point.y if point.high is not None else 0.0 for point in points]
    below = [point.y - point.low if point.low is not None else 0.0 for point in points]
    return {
        "type": "scatter",
        "mode": "markers+text",
        "x": rounded([point.x for point in points]),
        "y": rounded([point.y for point in points], 7),
        "text": names[0],
        "textposition": names[1],
        # Where many names meet a narrow window, the page leaves them away.
        "meta": "named" if sum(map(bool, names[0])) > _FEW else "",
        "textfont": {"color": LIGHT["ink"], "size": 12},
        "cliponaxis": False,
        "name": "Methods",
        "customdata": [
            [
                escaped(point.name, 60),
                _told(point, measure),
                kind.written(point.x),
            ]
            for point in points
        ],
        "hovertemplate": "<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]}<extra></extra>",
        "marker": {
            "size": 10,
            "color": [LIGHT[look[point.name].colour] for point in points],
            "symbol": [look[point.name].symbol + suffix for point, suffix in zip(points, suffixes, strict=True)],
            "line": {"width": 1.8},
        },
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": rounded(above),
            "arrayminus": rounded(below),
            "color": LIGHT["axis"],
            "thickness": 1.2,
            "width": 4,
        },
    }


def _told(point: Point, measure: Measure) -> str:
    mean = amount(point.y, measure.digits)
    if point.low is None or point.high is None:
        return f"{mean} (no interval)"
    return f"{mean} [{amount(point.low, measure.digits)}, {amount(point.high, measure.digits)}]"


def _labels(points: Sequence[Point], on_front: set[str], x_range: Range, y_range: Range) -> tuple[list[str], list[str]]:
    """Names beside their points where there is room, of many points those on the front; hovering tells all."""
    at = [(_share(point.x, x_range) * _WIDTH, (1 - _share(point.y, y_range)) * _HEIGHT) for point in points]
    taken = [(x - 8, y - 8, x + 8, y + 8) for x, y in at]
    texts, places = [""] * len(points), ["top right"] * len(points)
    # The front's first: where room is short, its names are the ones to keep.
    for number in sorted(range(len(points)), key=lambda place: points[place].name not in on_front):
        (x, y), point = at[number], points[number]
        name = short(point.name, 22)
        wide = len(name) * _LETTER
        boxes = {
            "top right": (x + 9, y - _LINE - 4, x + 9 + wide, y - 2),
            "bottom right": (x + 9, y + 2, x + 9 + wide, y + _LINE + 4),
            "top left": (x - 9 - wide, y - _LINE - 4, x - 9, y - 2),
            "bottom left": (x - 9 - wide, y + 2, x - 9, y + _LINE + 4),
            "top center": (x - wide / 2, y - _LINE - 10, x + wide / 2, y - 8),
            "bottom center": (x - wide / 2, y + 8, x + wide / 2, y + _LINE + 10),
        }
        free = [
            (place, box)
            for place, box in boxes.items()
            if box[0] >= 0 and box[2] <= _WIDTH and not any(_overlap(box, other) for other in taken)
        ]
        if free and (len(points) <= _NAMED or point.name in on_front):
            texts[number], places[number] = escaped(name), free[0][0]
            taken.append(free[0][1])
    return texts, places


def _share(value: float, along: Range) -> float:
    return (value - along[0]) / ((along[1] - along[0]) or 1.0)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _room(points: Sequence[Point]) -> Range:
    """The range of the measure: the means, and of their intervals what lies near them."""
    means = [point.y for point in points]
    spread = (max(means) - min(means)) or abs(means[0]) * 0.05 or 1.0
    lows = [point.low for point in points if point.low is not None]
    highs = [point.high for point in points if point.high is not None]
    low = max(min([*means, *lows]), min(means) - 2 * spread)
    high = min(max([*means, *highs]), max(means) + 2 * spread)
    margin = 0.1 * ((high - low) or spread)
    return low - margin, high + margin


def _words(study: Study, kind: Kind, best: Sequence[Point], absent: Sequence[str]) -> str:
    told = f"{kind.note} On the front, where no other is as good for less: {join([point.name for point in best])}."
    told += (
        f" It goes by the means; bars are {study.percent} intervals, and where they overlap the order may be chance."
    )
    return told + (f" Not shown, for want of a number: {join(list(absent))}." if absent else "")
