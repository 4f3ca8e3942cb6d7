"""Plots as plain plotly dictionaries in the light colours, each with the words that say what it shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from stillroom.report.formats import short
from stillroom.report.palette import LIGHT

Figure = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """One plot: a key for the page, a title, what it shows in words, its height in pixels, the plotly figure."""

    key: str
    title: str
    caption: str
    height: int
    figure: Figure


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
    """An axis as all plots draw it."""
    return {
        "title": {"text": title, "standoff": 8, "font": {"size": 12.5}},
        "gridcolor": LIGHT["grid"],
        "zeroline": False,
        "zerolinecolor": LIGHT["axis"],
        "zerolinewidth": 1,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": LIGHT["axis"],
        "automargin": True,
        **options,
    }


def layout(**options: Any) -> Figure:
    """The layout that all plots share."""
    return {
        "font": {
            "family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
            "size": 12.5,
            "color": LIGHT["muted"],
        },
        "paper_bgcolor": LIGHT["surface"],
        "plot_bgcolor": LIGHT["surface"],
        "margin": {"l": 8, "r": 14, "t": 26, "b": 8},
        "showlegend": False,
        # What the reader zoomed into stays when colours change.
        "uirevision": "kept",
        "hoverlabel": {
            "bgcolor": LIGHT["surface"],
            "bordercolor": LIGHT["axis"],
            "font": {"color": LIGHT["ink"], "size": 12.5},
            "align": "left",
            "namelength": -1,
        },
        **options,
    }


def line(x: Sequence[float], y: Sequence[float], name: str, colour: str, **options: Any) -> Figure:
    """One curve; few points are marked, many are not."""
    style = {"color": LIGHT[colour], "width": 2, **options.pop("line", {})}
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(x) <= 40 else "lines",
        "x": rounded(x),
        "y": rounded(y),
        "name": escaped(name),
        "line": style,
        "marker": {"size": 5, "color": LIGHT[colour]},
        **options,
    }
