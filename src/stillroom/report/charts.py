"""Plots as plain plotly dictionaries, and the colours they share with the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.report.formats import short

Figure = dict[str, Any]
Doubles = NDArray[np.float64]

# The shades of Okabe and Ito by role, darkened or lightened for contrast. Values of LIGHT all differ: figures are
# written in light colours, and the page looks each of them up to turn dark.
LIGHT: Mapping[str, str] = MappingProxyType(
    {
        "page": "#f6f7f9",
        "surface": "#ffffff",
        "sunken": "#f1f3f6",
        "ink": "#1a2230",
        "muted": "#566073",
        "line": "#dfe3e9",
        "grid": "#e9ecf0",
        "axis": "#9aa3b1",
        "link": "#005f96",
        "teacher": "#4a4f59",
        "student": "#0072b2",
        "other-1": "#b87900",
        "other-2": "#c2609b",
        "other-3": "#8f8300",
        "other-4": "#1b8a6b",
        "lost": "#d55e00",
        "gained": "#009e73",
        "lost-ink": "#a84300",
        "gained-ink": "#006b4c",
        "alarm": "#b3261e",
        "alarm-ink": "#8c1d18",
        "alarm-fill": "#fdeeec",
    }
)
DARK: Mapping[str, str] = MappingProxyType(
    {
        "page": "#10141a",
        "surface": "#181e27",
        "sunken": "#212936",
        "ink": "#e7ebf1",
        "muted": "#a6b0c0",
        "line": "#303948",
        "grid": "#283140",
        "axis": "#6f7b8e",
        "link": "#7cc4f2",
        "teacher": "#d3d9e2",
        "student": "#56b4e9",
        "other-1": "#e69f00",
        "other-2": "#e493bf",
        "other-3": "#e5da3c",
        "other-4": "#4fd0a8",
        "lost": "#f0803c",
        "gained": "#2fc196",
        "lost-ink": "#ffa36b",
        "gained-ink": "#5fdcb4",
        "alarm": "#f2766b",
        "alarm-ink": "#ffb4ab",
        "alarm-fill": "#3a1f1e",
    }
)
# Lines that are laid over one another, in this order.
DASHES = ("solid", "dash", "dot", "dashdot")
_OTHERS = 4
_TEXT = 12.5
_AXIS: Figure = {
    "title": {"standoff": 8, "font": {"size": _TEXT}},
    "gridcolor": LIGHT["grid"],
    "zeroline": False,
    "zerolinecolor": LIGHT["axis"],
    "zerolinewidth": 1,
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": LIGHT["axis"],
    "automargin": True,
}
# What all plots of a page share; plotly merges it into each.
TEMPLATE: Mapping[str, Any] = MappingProxyType(
    {
        "layout": {
            "font": {
                "family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
                "size": _TEXT,
                "color": LIGHT["muted"],
            },
            "paper_bgcolor": LIGHT["surface"],
            "plot_bgcolor": LIGHT["surface"],
            "margin": {"l": 8, "r": 14, "t": 26, "b": 8},
            "showlegend": False,
            "hovermode": "closest",
            "hoverlabel": {
                "bgcolor": LIGHT["surface"],
                "bordercolor": LIGHT["axis"],
                "font": {"color": LIGHT["ink"], "size": _TEXT},
                "align": "left",
                "namelength": -1,
            },
            "xaxis": _AXIS,
            "yaxis": _AXIS,
        },
        "data": {"scatter": [{"marker": {"size": 5}}]},
    }
)


@dataclass(frozen=True)
class Chart:
    """One plot: a key for the page, a title, what it shows in words, its height in pixels, the plotly figure."""

    key: str
    title: str
    caption: str
    height: int
    figure: Figure


@dataclass(frozen=True)
class SeriesStyle:
    """How a series is drawn: the role of its colour, its dash as plotly names it and as an SVG pattern, its symbol."""

    colour: str
    dash: str
    pattern: str
    symbol: str


def other(position: int) -> str:
    """The role of the n-th comparison run's colour, from 0.

    >>> other(0), other(4)
    ('other-1', 'other-1')
    """
    return f"other-{position % _OTHERS + 1}"


def css(colours: Mapping[str, str]) -> str:
    """The colours as CSS custom properties.

    >>> css({"ink": "#000000"})
    '--ink:#000000;'
    """
    return "".join(f"--{role}:{colour};" for role, colour in colours.items())


def dark_of_light() -> dict[str, str]:
    """Which dark colour stands for each light one."""
    return {LIGHT[role]: DARK[role] for role in LIGHT}


def escaped(text: str, limit: int = 28) -> str:
    """A text that plotly shows as it is: on one line, cut, and with none of the HTML that plotly understands.

    >>> escaped("<b>&")
    '&lt;b&gt;&amp;'
    """
    return short(text, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def rounded(values: Iterable[float], digits: int = 5) -> list[float | None]:
    """Numbers to a few significant digits, so that a page stays small; a number that is not finite becomes a gap.

    >>> rounded([0.123456789, float("nan")])
    [0.12346, None]
    """
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in values]


def axis(title: str, **options: Any) -> Figure:
    """An axis with a title; the rest is the template's."""
    return {"title": {"text": title}, **options}


def figure_of(traces: Sequence[Figure], x: Figure, y: Figure, **layout: Any) -> Figure:
    """A figure of traces over two axes; what all plots share is the template's."""
    return {"data": [*traces], "layout": {"xaxis": x, "yaxis": y, **layout}}


def line(x: Sequence[float], y: Sequence[float], name: str, colour: str, **options: Any) -> Figure:
    """One curve; few points are marked, many are not."""
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(x) <= 40 else "lines",
        "x": rounded(x),
        "y": rounded(y),
        "name": escaped(name),
        "line": {"color": LIGHT[colour], "width": 2, **options.pop("line", {})},
        "marker": {"size": 5, "color": LIGHT[colour]},
        **options,
    }


def level(x: Sequence[float], value: float, name: str, colour: str, dash: str, **options: Any) -> Figure:
    """A horizontal line that curves are compared with; a curve itself, so that hovering names it."""
    style = {"dash": dash, "width": 1.7}
    return line(x, [value] * len(x), name, colour, **({"mode": "lines", "line": style} | options))


def over_epochs(traces: Sequence[Figure], title: str, *, unified: bool = True, **options: Any) -> Figure:
    """A figure of curves over the epochs.

    Args:
        traces: the curves.
        title: of the y axis.
        unified: one box lists what all curves have at the epoch under the pointer.
        options: of the y axis; ``annotations`` are the layout's.
    """
    notes = {"annotations": options.pop("annotations")} if "annotations" in options else {}
    x = axis("epoch", hoverformat=".3~g", unifiedhovertitle={"text": "epoch %{x}"}, rangemode="tozero")
    mode = {"hovermode": "x unified"} if unified else {}
    return figure_of(traces, x, axis(title, **options), **mode, **notes)


def band(x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str, group: str = "") -> Figure:
    """The area between two curves; with a group it is shown and hidden with that group's line."""
    group_options = {"showlegend": False, "legendgroup": group, "meta": "band"} if group else {}
    return {
        "type": "scatter",
        "mode": "lines",
        "x": rounded([*x, *reversed(x)]),
        "y": rounded([*high, *reversed(low)]),
        "fill": "toself",
        "fillcolor": LIGHT[colour],
        "line": {"color": LIGHT[colour], "width": 0},
        "opacity": 0.16,
        "hoverinfo": "skip",
        **group_options,
    }


def lying_bars(values: Sequence[float], texts: Sequence[str], colours: Sequence[str], **options: Any) -> Figure:
    """Bars from the left, each with its number at its end; places go down from 0 where none are given."""
    return {
        "type": "bar",
        "orientation": "h",
        "x": rounded(values),
        # Places, not names: two classes may share a name, and names such as "7" would be taken for numbers.
        "y": [-place for place in range(len(values))],
        "marker": {"color": [LIGHT[colour] for colour in colours]},
        "text": list(texts),
        "textposition": "outside",
        "cliponaxis": False,
        "textfont": {"color": LIGHT["ink"], "size": 12},
        **options,
    }


def names_axis(names: Sequence[str], places: Sequence[int]) -> Figure:
    """The upright axis of lying bars: a name at each place."""
    ticks = {
        "tickvals": list(places),
        "ticktext": [escaped(name, 26) for name in names],
        "ticks": "",
        "ticksuffix": "  ",
    }
    return axis("", **ticks, showgrid=False, range=[min(places, default=-1) - 0.6, 0.6], fixedrange=True)


def error_bars(ends: Sequence[tuple[float, float | None, float | None]], colour: str) -> Figure:
    """Intervals as error bars: mean, low and high of each point, no bar where an end is None."""
    return {
        "type": "data",
        "symmetric": False,
        "array": rounded(max(high - mean, 0.0) if high is not None else 0.0 for mean, _, high in ends),
        "arrayminus": rounded(max(mean - low, 0.0) if low is not None else 0.0 for mean, low, _ in ends),
        "color": LIGHT[colour],
        "thickness": 1.3,
        "width": 4,
    }


def value_range(
    ends: Sequence[tuple[float, float | None, float | None]], *, reach: float, margin: float
) -> tuple[float, float]:
    """The range that holds all means, and of their intervals what lies near them.

    Args:
        ends: mean, low and high of each point.
        reach: an interval is cut beyond this many times the spread of the means: with two seeds one can be very wide.
        margin: space on either side, as a share of the range.
    """
    means = [mean for mean, _, _ in ends]
    spread = (max(means) - min(means)) or 0.05 * abs(means[0]) or 1.0
    low = max(min([*means, *(low for _, low, _ in ends if low is not None)]), min(means) - reach * spread)
    high = min(max([*means, *(high for *_, high in ends if high is not None)]), max(means) + reach * spread)
    space = margin * ((high - low) or spread)
    return low - space, high + space


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


def thin(x: Doubles, y: Doubles, limit: int = 2000) -> tuple[Doubles, Doubles]:
    """A curve of at most ``limit`` points that keeps its first and last point and every stretch's extremes.

    >>> x = np.arange(10_000.0); y = np.zeros(10_000); y[1234] = 9.0
    >>> kept_x, kept_y = thin(x, y, 100)
    >>> len(kept_x) <= 100, float(kept_y.max()), float(kept_x[-1])
    (True, 9.0, 9999.0)
    """
    if len(x) <= limit:
        return x, y
    keep = {0, len(x) - 1}
    for piece in np.array_split(np.arange(1, len(x) - 1), max((limit - 2) // 2, 1)):
        keep |= {int(piece[y[piece].argmin()]), int(piece[y[piece].argmax()])}
    order = sorted(keep)
    return x[order], y[order]
