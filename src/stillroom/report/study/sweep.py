"""The measure along the one number that the pairs of a study differ in: a line a method, and what is marked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from stillroom.report.figures import Chart, Figure, axis, escaped, layout, line, rounded
from stillroom.report.formats import MINUS, amount, counted, decimal
from stillroom.report.palette import LIGHT
from stillroom.report.study.looks import Look
from stillroom.report.study.model import Axis, Cell, Pair, Study
from stillroom.report.study.table import Number, mean_number
from stillroom.report.words import join

# As shares of the plot's width: the edge beside the outermost points; how far methods' points stand apart, all of
# them together at most; a letter and the space between two texts, as on a phone.
_EDGE, _APART, _ALL_APART = 0.05, 0.012, 0.05
_LETTER, _SPACE = 0.021, 0.025
# The share of its height that methods keep where a teacher stands far from them.
_KEPT = 0.5
# A row of labels, in pixels.
_ROW = 18
# Beyond this many times the spread of the means an interval is cut: with two seeds one can be very wide.
_REACH = 1.0
Range = tuple[float, float]


@dataclass(frozen=True)
class Sweep:
    """The figure, and its numbers as a table: the values as its columns, then each method's row."""

    title: str
    chart: Chart
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Number, ...]], ...]


@dataclass(frozen=True)
class _Frame:
    """What is drawn: the pairs in order, the ends of both axes, those of a logarithmic one as exponents."""

    pairs: tuple[Pair, ...]
    x: Range
    y: Range
    teacher: tuple[tuple[float, float], ...]
    teacher_fits: bool
    labels: tuple[int, ...]


def sweep(study: Study, look: Mapping[str, Look]) -> Sweep | None:
    """The figure; None where the pairs lie on no axis or no run has finished."""
    along = study.axis
    if along is None or not any(cell.mean is not None for cell in study.cells.values()):
        return None
    frame = _frame(study, along)
    title = f"{study.measure.heading} against {_within(along.title)}"
    return Sweep(
        title=title,
        chart=Chart("sweep", title, _words(study, along, frame), 440, _figure(study, along, frame, look)),
        columns=tuple(_number(along.values[pair.name]) for pair in frame.pairs),
        rows=tuple(
            (name, tuple(mean_number(study.cells.get((pair.name, name)), study.measure) for pair in frame.pairs))
            for name in study.names
        ),
    )


def _figure(study: Study, along: Axis, frame: _Frame, look: Mapping[str, Look]) -> Figure:
    traces = [_line(study, along, frame, name, look[name]) for name in study.names]
    if frame.teacher_fits:
        traces.append(_teacher(along, frame))
    at, texts = _ticks(along, frame)
    title = f"{escaped(along.title, 80)}{' (log scale)' if along.is_log else ''}"
    return {
        "data": traces,
        "layout": layout(
            xaxis=axis(
                title,
                type="log" if along.is_log else "linear",
                range=list(frame.x),
                tickvals=at,
                ticktext=texts,
                showgrid=False,
            ),
            yaxis=axis(f"{study.measure.label}, {study.measure.place}", range=list(frame.y)),
            hovermode="closest",
            shapes=[_dashes(value) for value, _ in along.marks],
            annotations=list(_labels(along, frame)),
            margin={"l": 8, "r": 14, "t": 14 + _ROW * (1 + max(frame.labels, default=0)), "b": 8},
        ),
    }


def _line(study: Study, along: Axis, frame: _Frame, name: str, look: Look) -> Figure:
    cells = [study.cells.get((pair.name, name)) for pair in frame.pairs]
    aside = _aside(study, along, frame, name)
    places = [_value(along, _placed(along, along.values[pair.name]) + aside) for pair in frame.pairs]
    drawn = line(
        places,
        [cell.mean if cell is not None and cell.mean is not None else math.nan for cell in cells],
        name,
        look.colour,
        customdata=[
            [_told(cell, study), _number(along.values[pair.name]), escaped(pair.name, 60)]
            for pair, cell in zip(frame.pairs, cells, strict=True)
        ],
        hovertemplate=f"<b>{escaped(name, 60)}</b> at %{{customdata[1]}}<br>%{{customdata[0]}}"
        "<br>%{customdata[2]}<extra></extra>",
        line={"dash": look.dash, "width": 2},
        marker={
            "size": 8,
            "color": LIGHT[look.colour],
            "symbol": [look.symbol + ("" if cell and cell.low is not None else "-open") for cell in cells],
            "line": {"width": 1.8, "color": LIGHT[look.colour]},
        },
    )
    drawn |= {"x": rounded(places, 9), "mode": "lines+markers"}
    if any(cell is not None and cell.low is not None for cell in cells):
        drawn["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": rounded(_margin(cell, 1) for cell in cells),
            "arrayminus": rounded(_margin(cell, -1) for cell in cells),
            "color": LIGHT[look.colour],
            "thickness": 1.4,
            "width": 4,
        }
    return drawn


def _margin(cell: Cell | None, side: int) -> float:
    end = None if cell is None else cell.high if side > 0 else cell.low
    return 0.0 if cell is None or cell.mean is None or end is None else abs(end - cell.mean)


def _told(cell: Cell | None, study: Study) -> str:
    if cell is None or cell.mean is None:
        return ""
    digits = study.measure.digits
    bounds = f"[{amount(cell.low, digits)}, {amount(cell.high, digits)}]" if cell.low is not None else "(no interval)"
    return f"{amount(cell.mean, digits)} {bounds}, {counted(cell.count, 'seed')}"


def _aside(study: Study, along: Axis, frame: _Frame, name: str) -> float:
    """How far beside its value a method's points are drawn, so that bars do not hide one another."""
    count = len(study.names)
    span = frame.x[1] - frame.x[0]
    places = [_placed(along, along.values[pair.name]) for pair in frame.pairs]
    nearest = min((after - before for before, after in pairwise(places)), default=span)
    apart = min(_APART * span, _ALL_APART * span / max(count - 1, 1), 0.4 * nearest / count)
    return (study.names.index(name) - (count - 1) / 2) * apart


def _teacher(along: Axis, frame: _Frame) -> Figure:
    points = list(frame.teacher)
    if len({top1 for _, top1 in points}) == 1:
        # One teacher, whatever the students are: from one end to the other.
        points = [(_value(along, end), points[0][1]) for end in frame.x]
    return line(
        [x for x, _ in points],
        [top1 for _, top1 in points],
        "Teacher",
        "axis",
        mode="lines",
        hovertemplate="Teacher %{y:.2f}<extra></extra>",
        line={"dash": "dot", "width": 1.6},
    )


def _dashes(value: float) -> Figure:
    place = {"type": "line", "xref": "x", "yref": "paper", "x0": value, "x1": value, "y0": 0, "y1": 1}
    return place | {"layer": "below", "line": {"color": LIGHT["axis"], "width": 1.6, "dash": "dash"}}


def _labels(along: Axis, frame: _Frame) -> Iterator[Figure]:
    """What the marks are called, above the frame, where nothing is drawn."""
    for (value, label), row in zip(along.marks, frame.labels, strict=True):
        if label:
            yield {
                # An annotation's place on a logarithmic axis is the exponent, other than a shape's.
                "x": _placed(along, value),
                "xref": "x",
                "xanchor": _anchor(along, frame.x, value, label),
                "y": 1,
                "yref": "paper",
                "yanchor": "bottom",
                "yshift": 2 + _ROW * row,
                "text": escaped(label, 60),
                "showarrow": False,
                "font": {"color": LIGHT["ink"], "size": 12.5},
            }


def _frame(study: Study, along: Axis) -> _Frame:
    pairs = tuple(sorted(study.pairs, key=lambda pair: along.values[pair.name]))
    places = [_placed(along, value) for value in (*along.values.values(), *(value for value, _ in along.marks))]
    margin = _EDGE * (max(places) - min(places)) or 1.0
    x = (min(places) - margin, max(places) + margin)
    low, high = _room(study)
    teacher = [(along.values[pair.name], pair.teacher_top1) for pair in pairs if pair.teacher_top1 is not None]
    if study.measure.name != "top1":
        teacher = []
    far = [top1 for _, top1 in teacher]
    beside = 0.04 * (max([high, *far]) - min([low, *far]))
    wider = min([low, *(top1 - beside for top1 in far)]), max([high, *(top1 + beside for top1 in far)])
    fits = bool(teacher) and high - low >= _KEPT * (wider[1] - wider[0])
    if fits:
        low, high = wider
    return _Frame(pairs, x, (low, high), tuple(teacher), fits, _rows(along, x))


def _room(study: Study) -> Range:
    """The range of the measure: the means, and of their intervals what lies near them."""
    cells = [cell for cell in study.cells.values() if cell.mean is not None]
    means = [cell.mean for cell in cells if cell.mean is not None]
    spread = (max(means) - min(means)) or 0.05 * abs(means[0]) or 1.0
    low = max(min([*means, *(cell.low for cell in cells if cell.low is not None)]), min(means) - _REACH * spread)
    high = min(max([*means, *(cell.high for cell in cells if cell.high is not None)]), max(means) + _REACH * spread)
    margin = 0.08 * ((high - low) or spread)
    low, high = low - margin, high + margin
    if study.measure.unit == "%":
        low, high = max(low, min(0.0, *means)), min(high, max(101.0, *means))
    return low, high


def _rows(along: Axis, x: Range) -> tuple[int, ...]:
    """For each mark the first row of labels in which its own lies over no other."""
    taken: list[tuple[int, float, float]] = []
    found = []
    for value, label in along.marks:
        start, end = _span(along, x, value, label, _anchor(along, x, value, label))
        row = 0
        while any(one == row and start < after and before < end for one, before, after in taken):
            row += 1
        taken.append((row, start, end))
        found.append(row)
    return tuple(found)


def _anchor(along: Axis, x: Range, value: float, label: str) -> str:
    """Which end of a label stands at its mark: its middle, where that keeps it within the plot."""
    start, end = _span(along, x, value, label, "center")
    return "left" if start < 0 else "right" if end > 1 else "center"


def _span(along: Axis, x: Range, value: float, text: str, anchor: str = "center") -> Range:
    """From where to where a text goes, as shares of the plot's width."""
    at, wide = _share(_placed(along, value), x), len(text) * _LETTER + _SPACE
    start = at - {"left": 0.0, "center": 0.5, "right": 1.0}[anchor] * wide
    return start, start + wide


def _ticks(along: Axis, frame: _Frame) -> tuple[list[float], list[str]]:
    """The pairs' own numbers, as many as stand apart; the last is always there."""
    values = [along.values[pair.name] for pair in frame.pairs]
    spans = {value: _span(along, frame.x, value, _number(value)) for value in values}
    kept = [values[-1]]
    for value in values[:-1][::-1]:
        if spans[value][1] <= spans[kept[0]][0]:
            kept.insert(0, value)
    return kept, [_number(value) for value in kept]


def _placed(along: Axis, value: float) -> float:
    return math.log10(value) if along.is_log else value


def _value(along: Axis, place: float) -> float:
    return 10.0**place if along.is_log else place


def _share(place: float, x: Range) -> float:
    return (place - x[0]) / (x[1] - x[0])


def _number(value: float) -> str:
    text = f"{value:,.6g}"
    return text.replace("-", MINUS, 1) if value < 0 else text


def _within(title: str) -> str:
    """A title within a line: its first letter small, where it begins a word and no abbreviation.

    >>> _within("Penultimate width d"), _within("KL weight"), _within("student.options.width")
    ('penultimate width d', 'KL weight', 'student.options.width')
    """
    return title[:1].lower() + title[1:] if title[1:2].islower() else title


def _words(study: Study, along: Axis, frame: _Frame) -> str:
    cells = [cell for cell in study.cells.values() if cell.mean is not None]
    told = [f"A line is a method, a point its mean over the seeds at one value of {_within(along.title)}."]
    ends = [end for cell in cells for end in (cell.low, cell.high) if end is not None]
    if ends:
        cut = ", cut where they leave the frame" if min(ends) < frame.y[0] or max(ends) > frame.y[1] else ""
        beside = "; those of one value stand a little apart" if len(study.names) > 1 else ""
        told.append(f"Bars are {study.percent} intervals{cut}{beside}.")
    if len(study.names) > 1 and len(study.seeds) > 1:
        told.append("A bar speaks of one method. The table’s paired differences say more.")
    if any(cell.low is None for cell in cells):
        told.append("A hollow point has no interval.")
    marked = [f"{label} ({_number(value)})" if label else _number(value) for value, label in along.marks]
    if marked:
        told.append(f"Dashed: {join(marked)}.")
    if frame.teacher:
        told.append(_teacher_words(frame))
    absent = [
        f"{name} at {_number(along.values[pair.name])}"
        for name in study.names
        for pair in frame.pairs
        if (cell := study.cells.get((pair.name, name))) is None or cell.mean is None
    ]
    if absent:
        told.append(f"Without a finished run: {join(absent)}.")
    return " ".join(told)


def _teacher_words(frame: _Frame) -> str:
    low, high = min(top1 for _, top1 in frame.teacher), max(top1 for _, top1 in frame.teacher)
    of = f"{decimal(low, 2)}%" if low == high else f"{decimal(low, 2)}% to {decimal(high, 2)}%"
    if frame.teacher_fits:
        return f"The dotted line is the teacher’s {of}."
    return f"The teacher’s {of} lies outside the frame."
