"""Plots of the evidence: bars, a line, a histogram, each with the threshold where it has one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from stillroom.report.charts import LIGHT, Chart, Figure, axis, escaped, layout, line, rounded, thin
from stillroom.report.formats import MINUS, amount
from stillroom.schema.diagnosis import Plot

# Beyond so many bars a page would have to be scrolled to see one plot.
MOST = 30
# Where the largest value is so many times the smallest, a straight axis would show nothing but the largest.
LOG = 200.0
_HEIGHT, _BAR, _THIN_BAR, _MANY, _LABEL = 260, 30, 22, 8, 20


def chart(plot: Plot, key: str) -> Chart:
    """A plot of a finding.

    Args:
        plot: the numbers.
        key: its key on the page.
    """
    make = {"bars": _bars, "line": _line, "histogram": _histogram}[plot.kind]
    figure, height = make(plot)
    return Chart(key, plot.title, _words(plot), height, figure)


def _bars(plot: Plot) -> tuple[Figure, int]:
    """Lying bars, the first on top: their names may be long, and a phone is narrow."""
    names, values = plot.x[:MOST], plot.y[:MOST]
    # Places, not names: two classes may share a name, and names such as "7" would be taken for numbers.
    places = [-place for place in range(len(values))]
    signed = min(values, default=0.0) < 0 < max(values, default=0.0)
    colours = [LIGHT["lost"] if signed and value < 0 else LIGHT["student"] for value in values]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": rounded(values),
        "y": places,
        "customdata": [
            [escaped(str(name), 60), amount(value, _digits(values))] for name, value in zip(names, values, strict=True)
        ],
        "hovertemplate": "<b>%{customdata[0]}</b><br>%{customdata[1]}<extra></extra>",
        "marker": {"color": colours},
        "text": [amount(value, _digits(values)) for value in values],
        "textposition": "outside",
        "cliponaxis": False,
        "textfont": {"color": LIGHT["ink"], "size": 12},
    }
    ends = [*values, *([plot.mark] if plot.mark is not None else []), 0.0]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0
    ticks = {
        "tickmode": "array",
        "tickvals": places,
        "ticktext": [escaped(str(name), 26) for name in names],
        "range": [places[-1] - 0.6 if places else -1, 0.6],
        "showgrid": False,
        # Unseen ticks: what keeps names off the bars.
        "ticklen": 7,
        "tickcolor": LIGHT["surface"],
        "fixedrange": True,
        "title": {"text": ""},
    }
    figure = {
        "data": [bars],
        "layout": layout(
            xaxis=axis(
                escaped(plot.y_label, 60),
                range=[low - (0.2 * span if low < 0 else 0), high + 0.2 * span],
                fixedrange=True,
                zeroline=True,
            ),
            yaxis=axis("") | ticks,
            hovermode="closest",
            bargap=0.3,
            shapes=_mark(plot.mark, upright=True),
        ),
    }
    return figure, 80 + (_BAR if len(values) <= _MANY else _THIN_BAR) * len(values)


def _line(plot: Plot) -> tuple[Figure, int]:
    x, y = thin(np.asarray(plot.x, dtype=np.float64), np.asarray(plot.y, dtype=np.float64))
    ends = [*y.tolist(), *([plot.mark] if plot.mark is not None else [])]
    is_log = min(ends) > 0 and max(ends) / min(ends) > LOG
    label = _broken(escaped(plot.y_label, 60))
    drawn = line(
        x.tolist(),
        y.tolist(),
        plot.title,
        "student",
        hovertemplate="%{x:.4~g}: %{y:.4~g}<extra></extra>",
    )
    options: Figure = {}
    if is_log:
        # Whole powers of ten, six of them at most.
        options = {"type": "log", "exponentformat": "power", "dtick": math.ceil(math.log10(max(ends) / min(ends)) / 6)}
    figure = {
        "data": [drawn],
        "layout": layout(
            xaxis=axis(escaped(plot.x_label, 60)),
            yaxis=axis(f"{label}{' (log scale)' if is_log else ''}", **options),
            hovermode="closest",
            shapes=_mark(plot.mark, upright=False),
        ),
    }
    return figure, _HEIGHT


def _histogram(plot: Plot) -> tuple[Figure, int]:
    edges = [float(edge) for edge in plot.x]
    bars = {
        "type": "bar",
        "x": rounded([(low + high) / 2 for low, high in pairwise(edges)]),
        "width": rounded([high - low for low, high in pairwise(edges)]),
        "y": rounded(plot.y),
        "marker": {"color": LIGHT["student"], "line": {"color": LIGHT["surface"], "width": 1}},
        "hovertemplate": "%{x:.3~g}: %{y:,.4~g}<extra></extra>",
    }
    figure = {
        "data": [bars],
        "layout": layout(
            xaxis=axis(escaped(plot.x_label, 60)),
            yaxis=axis(_broken(escaped(plot.y_label, 60))),
            hovermode="closest",
            bargap=0,
            # Of a histogram the values lie along the lower edge.
            shapes=_mark(plot.mark, upright=True),
        ),
    }
    return figure, _HEIGHT


def _broken(label: str) -> str:
    """A long name of an upright axis in two lines: the plot is low."""
    words = label.split()
    if len(label) <= _LABEL or len(words) < 2:
        return label
    half = min(range(1, len(words)), key=lambda place: abs(len(" ".join(words[:place])) - len(label) / 2))
    return f"{' '.join(words[:half])}<br>{' '.join(words[half:])}"


def _mark(value: float | None, *, upright: bool) -> list[Figure]:
    if value is None:
        return []
    along, across = ("x", "y") if upright else ("y", "x")
    return [
        {
            "type": "line",
            f"{along}ref": along,
            f"{across}ref": "paper",
            f"{along}0": value,
            f"{along}1": value,
            f"{across}0": 0,
            f"{across}1": 1,
            "layer": "above",
            "line": {"color": LIGHT["alarm"], "width": 1.6, "dash": "dash"},
        }
    ]


def threshold(plot: Plot) -> str:
    """What the dashed line is; empty where there is none."""
    if plot.mark is None:
        return ""
    text = (
        amount(plot.mark, _digits([plot.mark])) if abs(plot.mark) >= 0.1 else f"{plot.mark:.3g}".replace("-", MINUS, 1)
    )
    return f"Dashed: the threshold, {text}."


def _digits(values: Sequence[float]) -> int:
    """Decimals by which the largest value has three digits."""
    largest = max((abs(value) for value in values), default=1.0)
    return 0 if largest >= 100 else 1 if largest >= 10 else 2 if largest >= 1 else 3


def _words(plot: Plot) -> str:
    """What the plot shows, for whoever cannot see it; where the dashed line lies."""
    if not plot.y:
        return "No values."
    digits = _digits(plot.y)
    if plot.kind == "line":
        text = (
            f"From {amount(plot.y[0], digits)} to {amount(plot.y[-1], digits)}, lowest {amount(min(plot.y), digits)}."
        )
    elif plot.kind == "bars":
        low, high = (pick(range(len(plot.y)), key=lambda place: plot.y[place]) for pick in (min, max))
        text = f"Highest: {plot.x[high]}, {amount(plot.y[high], digits)}."
        if low != high:
            text += f" Lowest: {plot.x[low]}, {amount(plot.y[low], digits)}."
        if len(plot.y) > MOST:
            text += f" The first {MOST} of {len(plot.y)}."
    else:
        text = f"{amount(sum(plot.y), 0)} values from {amount(float(plot.x[0]))} to {amount(float(plot.x[-1]))}."
    return text if plot.mark is None else f"{text} {threshold(plot)}"
