"""The plots of a study's page: curves over the epochs, the measure along a sweep, the parts of a gain."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from stillroom.errors import BadInput
from stillroom.report.blocks import Values
from stillroom.report.charts import (
    LIGHT,
    Chart,
    Doubles,
    Figure,
    SeriesStyle,
    axis,
    error_bars,
    escaped,
    figure_of,
    level,
    line,
    over_epochs,
    rounded,
    value_range,
)
from stillroom.report.charts import band as area
from stillroom.report.formats import DASH, MINUS, amount, change, decimal
from stillroom.report.study.table import mean_number
from stillroom.schema.base import is_finite, parse_object, read_optional, read_text
from stillroom.schema.run import METRICS, RELATION_EPOCHS
from stillroom.schema.study import (
    DISSECTION,
    CellResult,
    Dissection,
    DissectionPart,
    PairDissection,
    PairInfo,
    StudyResults,
    SweepInfo,
)
from stillroom.wording import counted, listed

Styles = Mapping[str, SeriesStyle]
Range = tuple[float, float]
# By epoch, rounded so that the same evaluation of two runs has the same key.
Curve = dict[float, float]
_POINTS = 160
# With more methods, or with two seeds, whose intervals are very wide, bands only lie over one another: they are hidden
# at first.
BANDED = 6

# The baseline keeps the grey to itself, so that what is compared with it stands out. Thirty styles differ.
_COLOURS = ("student", "other-1", "other-4", "other-2", "lost", "other-3")
# Plotly's name, then the pattern in pixels that the legend's samples are drawn with.
_DASHES = (("solid", ""), ("dash", "7 4"), ("dot", "2 3"), ("dashdot", "7 3 2 3"), ("longdash", "12 4"))
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x")

# Of a sweep, as shares of the plot's width: the edge outside the outermost points; how far methods' points stand apart,
# all of them together at most; a letter and the space between two texts, as on a phone.
_EDGE, _APART, _ALL_APART = 0.05, 0.012, 0.05
_LETTER, _SPACE = 0.021, 0.025
# The share of its height that methods keep where a teacher stands far from them.
_KEPT = 0.5
# A row of labels, in pixels.
_ROW = 18


def series_styles(study: StudyResults) -> dict[str, SeriesStyle]:
    """How each method is drawn, the same in every plot of the page."""
    found = {study.baseline: SeriesStyle("teacher", *_DASHES[0], "circle")}
    for number, name in enumerate(name for name in study.names if name != study.baseline):
        turn = number // len(_COLOURS) % len(_DASHES)
        found[name] = SeriesStyle(_COLOURS[number % len(_COLOURS)], *_DASHES[turn], _SYMBOLS[turn])
    return found


@dataclass(frozen=True)
class _Band:
    epochs: Doubles
    mean: Doubles
    low: Doubles | None
    high: Doubles | None
    least: Doubles
    most: Doubles
    seeds: int


def study_curves(study: StudyResults, folder: Path, styles: Styles) -> Values:
    """Read the runs' evaluations and draw them; runs without any take nothing from the others."""
    charts, unread = [], []
    for place, pair in enumerate(study.model_pairs):
        bands: dict[str, _Band] = {}
        uneven = []
        for name in study.names:
            held = []
            for run in study.runs_of(pair.name, name):
                try:
                    held.append(_evaluations(study, folder, run.run))
                except BadInput as error:
                    unread.append(f"{run.run}: {error.expected}")
            held = [curve for curve in held if curve]
            common = sorted(set.intersection(*(set(curve) for curve in held))) if held else []
            if common:
                bands[name] = _band(held, common, study.level)
            elif held:
                uneven.append(name)
        if bands:
            charts.append(_curves(study, f"curve-{place}", pair, bands, uneven, styles))
    banded = len(study.names) <= BANDED and len(study.seeds) != 2
    return Values(charts=tuple(charts), words=_curves_intro(study), banded=banded, unread=tuple(unread))


def _evaluations(study: StudyResults, folder: Path, run: str) -> Curve:
    relation = study.measure.relation
    path = folder / run / (RELATION_EPOCHS if relation else METRICS)
    if not path.parent.is_dir():
        raise BadInput("run", run, "a run folder, which no longer exists")
    found: Curve = {}
    for number, text in enumerate(read_text(path).split("\n") if path.is_file() else (), start=1):
        # Lines of training are many, and nothing is read of them here.
        if not text.strip() or ('"test"' not in text and not relation):
            continue
        row = parse_object(text, path, number)
        epoch, value = row.get("epoch"), row.get(relation or study.measure.name)
        if (relation or row.get("split") == "test") and is_finite(epoch) and is_finite(value):
            found[round(float(epoch), 6)] = float(value)  # type: ignore[arg-type]
    return found


def _band(held: Sequence[Curve], epochs: Sequence[float], coverage: float) -> _Band:
    kept = np.unique(np.linspace(0, len(epochs) - 1, min(len(epochs), _POINTS)).round().astype(np.int64))
    chosen = [epochs[place] for place in kept]
    table = np.array([[curve[epoch] for epoch in chosen] for curve in held], dtype=np.float64)
    # Values near the largest number that there is overflow; rounded() leaves a gap there.
    with np.errstate(over="ignore", invalid="ignore"):
        mean = table.mean(axis=0)
        low = high = None
        if len(held) > 1:
            margin = stdtrit(len(held) - 1, (1 + coverage) / 2) * table.std(axis=0, ddof=1) / np.sqrt(len(held))
            low, high = mean - margin, mean + margin
    return _Band(np.array(chosen), mean, low, high, table.min(axis=0), table.max(axis=0), len(held))


def _teacher_top1(study: StudyResults, pair: PairInfo) -> float | None:
    """The teacher's top-1, where that is what is compared."""
    return pair.teacher_top1 if study.measure.name == "top1" else None


def _curves(
    study: StudyResults, key: str, pair: PairInfo, bands: Mapping[str, _Band], uneven: Sequence[str], styles: Styles
) -> Chart:
    traces: list[Figure] = []
    for number, (name, band) in enumerate(bands.items()):
        group = f"run-{study.names.index(name)}"
        if band.low is not None and band.high is not None:
            x, low, high = (ends.tolist() for ends in (band.epochs, band.low, band.high))
            traces.append(area(x, low, high, styles[name].colour, group))
        traces.append(_mean_line(name, band, styles[name], group, len(bands) - number, study))
    top1 = _teacher_top1(study, pair)
    if top1 is not None:
        last = max(float(band.epochs[-1]) for band in bands.values())
        hover = {"legendgroup": "teacher", "hovertemplate": "%{y:.2f}"}
        traces.append(level([0.0, last], top1, "Teacher", "axis", "dot", **hover))
    title = f"{study.measure.label}, {study.measure.place}"
    frame = _frame_of(list(bands.values()), top1)
    figure = over_epochs(traces, title, unified=len(bands) <= BANDED, **frame)
    title = pair.name if len(study.model_pairs) > 1 else f"{study.measure.heading} by epoch"
    return Chart(key, title, _curves_words(study, pair, bands, uneven), 400, figure)


def _mean_line(name: str, band: _Band, style: SeriesStyle, group: str, order: int, study: StudyResults) -> Figure:
    margins = [None] * len(band.mean) if band.high is None else rounded((band.high - band.mean).tolist(), 3)
    hover = f"%{{y:.{study.measure.digits}f}}" + (" ± %{customdata}" if band.high is not None else "")
    # Side by side in one box where few; where many, the one below the pointer says whose it is.
    name_in_box = "" if len(study.names) <= BANDED else f"<extra>{escaped(name)}</extra>"
    return line(
        band.epochs.tolist(),
        band.mean.tolist(),
        name,
        style.colour,
        customdata=margins,
        legendgroup=group,
        hovertemplate=hover + name_in_box,
        zorder=order + 1,
        line={"dash": style.dash},
        marker={"size": 5, "color": LIGHT[style.colour], "symbol": style.symbol},
    )


def _frame_of(bands: Sequence[_Band], top1: float | None) -> Figure:
    """The range of the measure: every run's values; bands are cut where they leave it."""
    values = np.concatenate([part for band in bands for part in (band.least, band.most)])
    values = values[np.isfinite(values)]
    if not len(values):
        return {}
    low, high = float(values.min()), float(values.max())
    if top1 is not None:
        high = max(high, top1)
    margin = 0.12 * (high - low) or 0.05 * abs(high) or 1.0
    if not math.isfinite(margin):
        return {}
    # What ends near nothing starts at nothing: then heights can be compared as well.
    return {"range": [0.0 if low - margin < 0 <= low else low - margin, high + margin]}


def _curves_intro(study: StudyResults) -> str:
    """What lines and bands are, said once for all plots."""
    if len(study.seeds) < 2:
        return "Each line is one run: with one seed there is no band."
    text = f"Lines are means over the seeds, bands their {study.percent} intervals, epoch by epoch, cut where they "
    text += "leave the frame."
    if len(study.names) > 1:
        text += " A band describes one method. The table’s paired differences cancel what a seed does to all methods."
    return text


def _curves_words(study: StudyResults, pair: PairInfo, bands: Mapping[str, _Band], uneven: Sequence[str]) -> str:
    """What is true of one plot alone."""
    counts = sorted({band.seeds for band in bands.values()})
    seeds = f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else counted(counts[0], "seed")
    sentences = [f"{seeds} a line."]
    single = [name for name, band in bands.items() if band.seeds == 1]
    if single and len(counts) > 1:
        sentences.append(f"No band, as there is one seed: {listed(single)}.")
    absent = [name for name in study.names if name not in bands and name not in uneven]
    if absent:
        sentences.append(f"Without a finished run that was evaluated during training: {listed(absent)}.")
    if uneven:
        sentences.append(f"Left out, as their seeds were evaluated at different epochs: {listed(uneven)}.")
    top1 = _teacher_top1(study, pair)
    if top1 is not None:
        sentences.append(f"The dotted line is the teacher’s {decimal(top1, 2)}%.")
    return " ".join(sentences)


@dataclass(frozen=True)
class _SweepFrame:
    """What is drawn: the pairs in order, the ends of both axes, those of a logarithmic one as exponents."""

    pairs: tuple[PairInfo, ...]
    x: Range
    y: Range
    teacher: tuple[tuple[float, float], ...]
    teacher_fits: bool
    labels: tuple[int, ...]


def sweep_section(study: StudyResults, styles: Styles) -> Values | None:
    """The measure along the one number that the pairs differ in; None where they lie on no axis or no run finished."""
    along = study.sweep
    if along is None or not any(cell.mean is not None for cell in study.cells.values()):
        return None
    frame = _sweep_frame(study, along)
    title = f"{study.measure.heading} against {_within(along.title)}"
    figure = _sweep_figure(study, along, frame, styles)
    return Values(
        title=title,
        chart=Chart("sweep", title, _sweep_words(study, along, frame), 440, figure),
        columns=tuple(_number(along.values[pair.name]) for pair in frame.pairs),
        rows=tuple(
            (name, tuple(mean_number(study.cells.get((pair.name, name)), study.measure) for pair in frame.pairs))
            for name in study.names
        ),
    )


def _sweep_figure(study: StudyResults, along: SweepInfo, frame: _SweepFrame, styles: Styles) -> Figure:
    traces = [_sweep_line(study, along, frame, name, styles[name]) for name in study.names]
    if frame.teacher_fits:
        traces.append(_sweep_teacher(along, frame))
    at, texts = _sweep_ticks(along, frame)
    x = axis(
        f"{escaped(along.title, 80)}{' (log scale)' if along.log else ''}",
        type="log" if along.log else "linear",
        range=list(frame.x),
        tickvals=at,
        ticktext=texts,
        showgrid=False,
    )
    place = {"type": "line", "xref": "x", "yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
    dashes = {"color": LIGHT["axis"], "width": 1.6, "dash": "dash"}
    return figure_of(
        traces,
        x,
        axis(f"{study.measure.label}, {study.measure.place}", range=list(frame.y)),
        shapes=[place | {"x0": mark.at, "x1": mark.at, "line": dashes} for mark in along.marks],
        annotations=list(_mark_labels(along, frame)),
        margin={"l": 8, "r": 14, "t": 14 + _ROW * (1 + max(frame.labels, default=0)), "b": 8},
    )


def _sweep_line(study: StudyResults, along: SweepInfo, frame: _SweepFrame, name: str, style: SeriesStyle) -> Figure:
    cells = [study.cells.get((pair.name, name)) for pair in frame.pairs]
    aside = _aside(study, along, frame, name)
    places = [_value(along, _placed(along, along.values[pair.name]) + aside) for pair in frame.pairs]
    ends = [
        (math.nan, None, None) if cell is None or cell.mean is None else (cell.mean, cell.low, cell.high)
        for cell in cells
    ]
    drawn = line(
        places,
        [mean for mean, _, _ in ends],
        name,
        style.colour,
        mode="lines+markers",
        customdata=[
            [_cell_text(cell, study), _number(along.values[pair.name]), escaped(pair.name, 60)]
            for pair, cell in zip(frame.pairs, cells, strict=True)
        ],
        hovertemplate=f"<b>{escaped(name, 60)}</b> at %{{customdata[1]}}<br>%{{customdata[0]}}"
        "<br>%{customdata[2]}<extra></extra>",
        line={"dash": style.dash},
        marker={
            "size": 8,
            "color": LIGHT[style.colour],
            "symbol": [style.symbol + ("" if low is not None else "-open") for _, low, _ in ends],
            "line": {"width": 1.8, "color": LIGHT[style.colour]},
        },
    )
    drawn["x"] = rounded(places, 9)
    if any(low is not None for _, low, _ in ends):
        drawn["error_y"] = error_bars(ends, style.colour)
    return drawn


def _cell_text(cell: CellResult | None, study: StudyResults) -> str:
    if cell is None or cell.mean is None:
        return ""
    digits = study.measure.digits
    bounds = f"[{amount(cell.low, digits)}, {amount(cell.high, digits)}]" if cell.low is not None else "(no interval)"
    return f"{amount(cell.mean, digits)} {bounds}, {counted(cell.count, 'seed')}"


def _aside(study: StudyResults, along: SweepInfo, frame: _SweepFrame, name: str) -> float:
    """How far from its value a method's points are drawn, so that bars do not hide one another."""
    count = len(study.names)
    span = frame.x[1] - frame.x[0]
    places = [_placed(along, along.values[pair.name]) for pair in frame.pairs]
    nearest = min((after - before for before, after in pairwise(places)), default=span)
    apart = min(_APART * span, _ALL_APART * span / max(count - 1, 1), 0.4 * nearest / count)
    return (study.names.index(name) - (count - 1) / 2) * apart


def _sweep_teacher(along: SweepInfo, frame: _SweepFrame) -> Figure:
    points = list(frame.teacher)
    if len({top1 for _, top1 in points}) == 1:
        # One teacher, whatever the students are: from one end to the other.
        points = [(_value(along, end), points[0][1]) for end in frame.x]
    style = {"dash": "dot", "width": 1.6}
    hover = "Teacher %{y:.2f}<extra></extra>"
    x, y = [at for at, _ in points], [top1 for _, top1 in points]
    return line(x, y, "Teacher", "axis", mode="lines", hovertemplate=hover, line=style)


def _mark_labels(along: SweepInfo, frame: _SweepFrame) -> Iterator[Figure]:
    """What the marks are called, above the frame, where nothing is drawn."""
    for mark, row in zip(along.marks, frame.labels, strict=True):
        if mark.label:
            yield {
                # An annotation's place on a logarithmic axis is the exponent, other than a shape's.
                "x": _placed(along, mark.at),
                "xref": "x",
                "xanchor": _anchor(along, frame.x, mark.at, mark.label),
                "y": 1,
                "yref": "paper",
                "yanchor": "bottom",
                "yshift": 2 + _ROW * row,
                "text": escaped(mark.label, 60),
                "showarrow": False,
                "font": {"color": LIGHT["ink"], "size": 12.5},
            }


def _sweep_frame(study: StudyResults, along: SweepInfo) -> _SweepFrame:
    pairs = tuple(sorted(study.model_pairs, key=lambda pair: along.values[pair.name]))
    places = [_placed(along, value) for value in (*along.values.values(), *(mark.at for mark in along.marks))]
    margin = _EDGE * (max(places) - min(places)) or 1.0
    x = (min(places) - margin, max(places) + margin)
    ends = [(cell.mean, cell.low, cell.high) for cell in study.cells.values() if cell.mean is not None]
    low, high = value_range(ends, reach=1.0, margin=0.08)
    if study.measure.unit == "%":
        means = [mean for mean, _, _ in ends]
        low, high = max(low, min(0.0, *means)), min(high, max(101.0, *means))
    teacher = [(along.values[pair.name], top1) for pair in pairs if (top1 := _teacher_top1(study, pair)) is not None]
    far = [top1 for _, top1 in teacher]
    margin = 0.04 * (max([high, *far]) - min([low, *far]))
    wider = min([low, *(top1 - margin for top1 in far)]), max([high, *(top1 + margin for top1 in far)])
    fits = bool(teacher) and high - low >= _KEPT * (wider[1] - wider[0])
    return _SweepFrame(pairs, x, wider if fits else (low, high), tuple(teacher), fits, _label_rows(along, x))


def _label_rows(along: SweepInfo, x: Range) -> tuple[int, ...]:
    """For each mark the first row of labels in which its own lies over no other."""
    taken: list[tuple[int, float, float]] = []
    for mark in along.marks:
        start, end = _span(along, x, mark.at, mark.label, _anchor(along, x, mark.at, mark.label))
        row = 0
        while any(one == row and start < after and before < end for one, before, after in taken):
            row += 1
        taken.append((row, start, end))
    return tuple(row for row, _, _ in taken)


def _anchor(along: SweepInfo, x: Range, value: float, label: str) -> str:
    """Which end of a label stands at its mark: its middle, where that keeps it within the plot."""
    start, end = _span(along, x, value, label, "center")
    return "left" if start < 0 else "right" if end > 1 else "center"


def _span(along: SweepInfo, x: Range, value: float, text: str, anchor: str = "center") -> Range:
    """From where to where a text goes, as shares of the plot's width."""
    at, wide = (_placed(along, value) - x[0]) / (x[1] - x[0]), len(text) * _LETTER + _SPACE
    start = at - {"left": 0.0, "center": 0.5, "right": 1.0}[anchor] * wide
    return start, start + wide


def _sweep_ticks(along: SweepInfo, frame: _SweepFrame) -> tuple[list[float], list[str]]:
    """The pairs' own numbers, as many as stand apart; the last is always there."""
    values = [along.values[pair.name] for pair in frame.pairs]
    spans = {value: _span(along, frame.x, value, _number(value)) for value in values}
    kept = [values[-1]]
    for value in values[:-1][::-1]:
        if spans[value][1] <= spans[kept[0]][0]:
            kept.insert(0, value)
    return kept, [_number(value) for value in kept]


def _placed(along: SweepInfo, value: float) -> float:
    return math.log10(value) if along.log else value


def _value(along: SweepInfo, place: float) -> float:
    return 10.0**place if along.log else place


def _number(value: float) -> str:
    text = f"{value:,.6g}"
    return text.replace("-", MINUS, 1) if value < 0 else text


def _within(title: str) -> str:
    """A title within a line: its first letter small, where it begins a word and no abbreviation.

    >>> _within("Penultimate width d"), _within("KL weight"), _within("student.options.width")
    ('penultimate width d', 'KL weight', 'student.options.width')
    """
    return title[:1].lower() + title[1:] if title[1:2].islower() else title


def _sweep_words(study: StudyResults, along: SweepInfo, frame: _SweepFrame) -> str:
    cells = [cell for cell in study.cells.values() if cell.mean is not None]
    sentences = [f"A line is a method, a point its mean over the seeds at one value of {_within(along.title)}."]
    ends = [end for cell in cells for end in (cell.low, cell.high) if end is not None]
    if ends:
        cut = ", cut where they leave the frame" if min(ends) < frame.y[0] or max(ends) > frame.y[1] else ""
        shifted = "; points of one value are shifted slightly" if len(study.names) > 1 else ""
        sentences.append(f"Bars are {study.percent} intervals{cut}{shifted}.")
    if len(study.names) > 1 and len(study.seeds) > 1:
        sentences.append("A bar describes one method. The table’s paired differences are more precise.")
    if any(cell.low is None for cell in cells):
        sentences.append("A hollow point has no interval.")
    marked = [f"{mark.label} ({_number(mark.at)})" if mark.label else _number(mark.at) for mark in along.marks]
    if marked:
        sentences.append(f"Dashed: {listed(marked)}.")
    if frame.teacher:
        low, high = min(top1 for _, top1 in frame.teacher), max(top1 for _, top1 in frame.teacher)
        of = f"{decimal(low, 2)}%" if low == high else f"{decimal(low, 2)}% to {decimal(high, 2)}%"
        where = f"The dotted line is the teacher’s {of}." if frame.teacher_fits else ""
        sentences.append(where or f"The teacher’s {of} lies outside the frame.")
    absent = [
        f"{name} at {_number(along.values[pair.name])}"
        for name in study.names
        for pair in frame.pairs
        if (cell := study.cells.get((pair.name, name))) is None or cell.mean is None
    ]
    if absent:
        sentences.append(f"Without a finished run: {listed(absent)}.")
    return " ".join(sentences)


def dissection_sections(folder: Path) -> tuple[Values, ...]:
    """What ``dissection.json`` says of each pair; nothing where there is none."""
    found = read_optional(Dissection, folder / DISSECTION)
    return () if found is None else tuple(_dissection(place, each) for place, each in enumerate(found.pairs))


def _dissection(place: int, found: PairDissection) -> Values:
    chart = None
    if found.total.mean is not None and all(part.mean is not None for part in found.parts):
        title = "What each part of the teacher’s output brought"
        words = (
            "Each bar begins where the one above it ends; together they make up what the full output brought over "
            "labels. Whiskers are 95% intervals of each part by itself, over the seeds."
        )
        height = 70 + 46 * (len(found.parts) + 1)
        chart = Chart(f"dissection-{place}", title, words, height, _dissection_figure(found.parts, found.total))
    shares = [DASH if part.share is None else f"{amount(100 * part.share, 0)}%" for part in found.parts]
    has_shares = any(part.share is not None for part in found.parts[:1])
    rows = [
        (part.name, part.note, _points(part), share)
        for part, share in zip((*found.parts, found.total), [*shares, "100%" if has_shares else DASH], strict=True)
    ]
    return Values(pair=found.pair, chart=chart, rows=tuple(rows), text=found.text)


def _points(part: DissectionPart) -> str:
    if part.mean is None:
        return DASH
    return change(part.mean) + (f" [{change(part.low)}, {change(part.high)}]" if part.low is not None else "")


def _dissection_figure(parts: Sequence[DissectionPart], total: DissectionPart) -> Figure:
    rows = [*parts, total]
    means = [part.mean or 0.0 for part in rows]
    bases = [sum(means[:place]) for place in range(len(parts))] + [0.0]
    colours = [LIGHT["gained" if mean >= 0 else "lost"] for mean in means[:-1]] + [LIGHT["student"]]
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": [escaped(part.name) for part in rows],
        "x": rounded(means),
        "base": rounded(bases),
        "marker": {"color": colours},
        "width": 0.62,
        "customdata": [[escaped(_points(part), 60), escaped(part.note, 90)] for part in rows],
        "hovertemplate": "<b>%{y}</b> %{customdata[0]}<br>%{customdata[1]}<extra></extra>",
        "error_x": error_bars([(part.mean or 0.0, part.low, part.high) for part in rows], "ink"),
    }
    y = axis("", autorange="reversed", showgrid=False)
    return figure_of([bars], axis("Points over labels", zeroline=True), y)
