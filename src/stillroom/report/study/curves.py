"""The measure on the test split over the epochs: each method's mean over its seeds, and how far it is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from stillroom.errors import BadInput
from stillroom.report.fields import is_finite
from stillroom.report.figures import Chart, Figure, axis, escaped, layout, line, rounded
from stillroom.report.formats import counted, decimal
from stillroom.report.palette import LIGHT
from stillroom.report.read import json_object, read_text
from stillroom.report.study.looks import Look
from stillroom.report.study.model import Pair, Study
from stillroom.report.words import join

Doubles = NDArray[np.float64]
# By epoch, rounded so that the same evaluation of two runs has the same key.
Curve = dict[float, float]
_POINTS = 160
# With more methods, or with two seeds, whose intervals are very wide, bands only lie over one another: they wait
# for the reader to ask for them.
BANDED = 6


@dataclass(frozen=True)
class Curves:
    """One plot a pair, what all of them show, whether bands are shown at first, the runs that could not be read."""

    charts: tuple[Chart, ...]
    words: str
    banded: bool
    unread: tuple[str, ...]


@dataclass(frozen=True)
class _Band:
    epochs: Doubles
    mean: Doubles
    low: Doubles | None
    high: Doubles | None
    least: Doubles
    most: Doubles
    seeds: int


def curves(study: Study, look: Mapping[str, Look]) -> Curves:
    """Read the runs' evaluations and draw them; runs without any take nothing from the others."""
    charts, unread = [], []
    for place, pair in enumerate(study.pairs):
        bands: dict[str, _Band] = {}
        uneven = []
        for name in study.names:
            held = []
            for run in study.runs_of(pair.name, name):
                try:
                    held.append(_evaluations(study, run.path))
                except BadInput as error:
                    unread.append(f"{run.path}: {error.expected}")
            held = [curve for curve in held if curve]
            common = sorted(set.intersection(*(set(curve) for curve in held))) if held else []
            if common:
                bands[name] = _band(held, common, study.level)
            elif held:
                uneven.append(name)
        if bands:
            charts.append(_chart(study, f"curve-{place}", pair, bands, uneven, look))
    return Curves(tuple(charts), _intro(study), len(study.names) <= BANDED and len(study.seeds) != 2, tuple(unread))


def _evaluations(study: Study, run: str) -> Curve:
    relation = study.measure.relation
    path = study.path / run / ("class_relations.jsonl" if relation else "metrics.jsonl")
    if not path.parent.is_dir():
        raise BadInput("run", run, "a run folder, which is not there any more")
    found: Curve = {}
    for number, text in enumerate(read_text(path).split("\n") if path.is_file() else (), start=1):
        # Lines of training are many, and nothing is read of them here.
        if not text.strip() or ('"test"' not in text and not relation):
            continue
        row = json_object(text, path, number)
        epoch, value = row.get("epoch"), row.get(relation or study.measure.name)
        if (relation or row.get("split") == "test") and is_finite(epoch) and is_finite(value):
            found[round(float(epoch), 6)] = float(value)  # type: ignore[arg-type]
    return found


def _band(held: Sequence[Curve], epochs: Sequence[float], level: float) -> _Band:
    kept = np.unique(np.linspace(0, len(epochs) - 1, min(len(epochs), _POINTS)).round().astype(np.int64))
    chosen = [epochs[place] for place in kept]
    table = np.array([[curve[epoch] for epoch in chosen] for curve in held], dtype=np.float64)
    # Values near the largest number that there is overflow; rounded() leaves a gap there.
    with np.errstate(over="ignore", invalid="ignore"):
        mean = table.mean(axis=0)
        low = high = None
        if len(held) > 1:
            margin = stdtrit(len(held) - 1, (1 + level) / 2) * table.std(axis=0, ddof=1) / np.sqrt(len(held))
            low, high = mean - margin, mean + margin
    return _Band(np.array(chosen), mean, low, high, table.min(axis=0), table.max(axis=0), len(held))


def _chart(
    study: Study, key: str, pair: Pair, bands: Mapping[str, _Band], uneven: Sequence[str], look: Mapping[str, Look]
) -> Chart:
    traces: list[Figure] = []
    for number, (name, band) in enumerate(bands.items()):
        if band.low is not None and band.high is not None:
            traces.append(_area(band, look[name], _group(study, name)))
        traces.append(_line(name, band, look[name], _group(study, name), len(bands) - number, study))
    options: dict[str, Any] = {}
    if study.measure.name == "top1" and pair.teacher_top1 is not None:
        last = max(float(band.epochs[-1]) for band in bands.values())
        traces.append(_teacher(pair.teacher_top1, last))
    figure = {
        "data": traces,
        "layout": layout(
            xaxis=axis("epoch", hoverformat=".3~g", unifiedhovertitle={"text": "epoch %{x}"}),
            yaxis=axis(f"{study.measure.label}, {study.measure.place}", **_room(list(bands.values()), pair, study)),
            hovermode="x unified" if len(bands) <= BANDED else "closest",
            **options,
        ),
    }
    return Chart(key, pair.name, _words(study, pair, bands, uneven), 400, figure)


def _group(study: Study, name: str) -> str:
    return f"run-{study.names.index(name)}"


def _line(name: str, band: _Band, look: Look, group: str, order: int, study: Study) -> Figure:
    digits = study.measure.digits
    margins = [None] * len(band.mean) if band.high is None else rounded((band.high - band.mean).tolist(), 3)
    hover = f"%{{y:.{digits}f}}"
    if band.high is not None:
        hover += " ± %{customdata}"
    # Side by side in one box where few; where many, the one below the pointer says whose it is.
    name_in_box = f"<extra>{escaped(name)}</extra>"
    return line(
        band.epochs.tolist(),
        band.mean.tolist(),
        name,
        look.colour,
        customdata=margins,
        legendgroup=group,
        hovertemplate=hover + ("" if len(study.names) <= BANDED else name_in_box),
        zorder=order + 1,
        line={"dash": look.dash, "width": 2},
        marker={"size": 5, "color": LIGHT[look.colour], "symbol": look.symbol},
    )


def _area(band: _Band, look: Look, group: str) -> Figure:
    assert band.low is not None
    assert band.high is not None
    there, back = band.epochs.tolist(), band.epochs[::-1].tolist()
    return {
        "type": "scatter",
        "mode": "lines",
        "x": rounded([*there, *back]),
        "y": rounded([*band.high.tolist(), *band.low[::-1].tolist()]),
        "fill": "toself",
        "fillcolor": LIGHT[look.colour],
        "line": {"color": LIGHT[look.colour], "width": 0},
        "opacity": 0.16,
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": group,
        "meta": "band",
    }


def _teacher(top1: float, last: float) -> Figure:
    # A curve and not a shape: the box that lists what is hovered names it as well.
    return line(
        [0.0, last],
        [top1, top1],
        "Teacher",
        "axis",
        mode="lines",
        legendgroup="teacher",
        hovertemplate="%{y:.2f}",
        line={"dash": "dot", "width": 1.6},
    )


def _room(bands: Sequence[_Band], pair: Pair, study: Study) -> dict[str, Any]:
    """The range of the measure: every run's values, and of the bands what lies near them."""
    values = np.concatenate([part for band in bands for part in (band.least, band.most)])
    values = values[np.isfinite(values)]
    if not len(values):
        return {}
    low, high = float(values.min()), float(values.max())
    if study.measure.name == "top1" and pair.teacher_top1 is not None:
        high = max(high, pair.teacher_top1)
    margin = 0.12 * (high - low) or 0.05 * abs(high) or 1.0
    if not np.isfinite(margin):
        return {}
    low, high = low - margin, high + margin
    # What ends near nothing starts at nothing: then heights can be compared as well.
    return {"range": [0.0 if low < 0 <= float(values.min()) else low, high]}


def _intro(study: Study) -> str:
    """What lines and bands are, said once for all plots."""
    if len(study.seeds) < 2:
        return "Each line is one run: with one seed there is no band."
    told = (
        f"Lines are means over the seeds, bands their {study.percent} intervals, epoch by epoch, cut where they leave "
    )
    told += "the frame."
    if len(study.names) > 1:
        told += " A band speaks of one method. A seed moves all alike, so the table’s paired differences say more."
    return told


def _words(study: Study, pair: Pair, bands: Mapping[str, _Band], uneven: Sequence[str]) -> str:
    """What is true of one plot alone."""
    told = []
    counts = sorted({band.seeds for band in bands.values()})
    seeds = f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else counted(counts[0], "seed")
    told.append(f"{seeds[:1].upper()}{seeds[1:]} a line.")
    single = [name for name, band in bands.items() if band.seeds == 1]
    if single and len(counts) > 1:
        told.append(f"One seed and so no band: {join(single)}.")
    absent = [name for name in study.names if name not in bands and name not in uneven]
    if absent:
        told.append(f"Without a finished run that was evaluated on the way: {join(absent)}.")
    if uneven:
        told.append(f"Left out, as their seeds were evaluated at different epochs: {join(list(uneven))}.")
    if study.measure.name == "top1" and pair.teacher_top1 is not None:
        told.append(f"The dotted line is the teacher’s {decimal(pair.teacher_top1, 2)}%.")
    return " ".join(told)
