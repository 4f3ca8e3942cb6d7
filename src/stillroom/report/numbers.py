"""The numbers of a plot as a table, for whoever cannot see the plot, prints the page, or wants to copy them."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stillroom.report.charts import Figure
from stillroom.report.formats import DASH, MINUS

# Rows of a table of curves; longer curves are thinned evenly.
_ROWS = 25
# A heat map of more rows stays one.
_SQUARE = 40


@dataclass(frozen=True)
class PlotNumbers:
    """A table: its heads, its rows, whose first cell is their name, and what it leaves out."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def plot_numbers(figure: Figure) -> PlotNumbers:
    """The table of a figure: curves over one axis a column each, points and bars a row each, a heat map as it is.

    >>> curve = {"type": "scatter", "x": [1.0, 2.0], "y": [50.25, 61.0], "name": "a &lt; b"}
    >>> found = plot_numbers({"data": [curve], "layout": {"xaxis": {"title": {"text": "epoch"}}}})
    >>> found.heads, found.rows
    (['epoch', 'a < b'], [['1', '50.25'], ['2', '61']])
    """
    # Bands around curves and lines to compare with are no data.
    traces = [trace for trace in figure["data"] if trace.get("hoverinfo") != "skip"]
    layout = figure["layout"]
    if traces and traces[0]["type"] == "heatmap":
        return _heatmap(traces[0], layout)
    are_curves = all(
        trace.get("orientation") != "h" and "text" not in trace and not _is_listed(trace.get("customdata"))
        for trace in traces
    )
    if are_curves:
        return _curves(traces, layout)
    return _points(traces, layout)


def _curves(traces: Sequence[Figure], layout: Figure) -> PlotNumbers:
    """Columns by trace, rows by place."""
    named = _ticks(layout, "xaxis")
    columns = [dict(zip(trace["x"], _values(trace, "y"), strict=True)) for trace in traces]
    places = sorted({place for column in columns for place in column})
    step = -(-len(places) // _ROWS) or 1
    # The last place counts most: where a training ended.
    kept = places[(len(places) - 1) % step :: step]
    rows = [[named.get(place) or _number(place), *(column.get(place, DASH) for column in columns)] for place in kept]
    heads = [_title(layout, "xaxis"), *(_name(trace, layout) for trace in traces)]
    return PlotNumbers(heads, rows, f"{len(kept)} of {len(places)} points, evenly spread." if step > 1 else "")


def _points(traces: Sequence[Figure], layout: Figure) -> PlotNumbers:
    """A row for each point or bar."""
    ticks = _ticks(layout, "yaxis")
    lie = all(trace.get("orientation") == "h" for trace in traces)
    rows = []
    for trace in traces:
        name = _name(trace, layout)
        across, upright = _values(trace, "x"), _values(trace, "y")
        for place in range(len(across)):
            label = _label(trace, place) or ticks.get(trace["y"][place], "")
            rows.append([name, label, across[place], *([] if lie else [upright[place]])])
    heads = ["series", "name", _title(layout, "xaxis"), *([] if lie else [_title(layout, "yaxis")])]
    # Columns that tell nothing are left out.
    used = [at for at in range(len(heads)) if at > 1 or len({row[at] for row in rows}) > 1]
    return PlotNumbers([heads[at] for at in used], [[row[at] for at in used] for row in rows])


def _heatmap(trace: Figure, layout: Figure) -> PlotNumbers:
    across, down = _ticks(layout, "xaxis"), _ticks(layout, "yaxis")
    rows = trace["z"]
    if len(rows) > _SQUARE:
        return PlotNumbers((), (), f"{len(rows)} rows are too many for a table; the folder's files hold them.")
    heads = [across.get(at, str(at + 1)) for at in range(len(rows[0]) if rows else 0)]
    return PlotNumbers(["", *heads], [[down.get(at, str(at + 1)), *map(_number, row)] for at, row in enumerate(rows)])


def _values(trace: Figure, axis: str) -> list[str]:
    """A trace's numbers along an axis, with half the width of their interval where they have one."""
    error = trace.get(f"error_{axis}")
    half = trace.get("customdata") if axis == "y" and "±" in str(trace.get("hovertemplate")) else None
    texts = []
    for place, value in enumerate(trace[axis]):
        text = _number(value)
        if error is not None:
            up, down = error["array"][place], error["arrayminus"][place]
            text += f" [{_number(value - down)}, {_number(value + up)}]" if up or down else ""
        elif half is not None and half[place] is not None and not isinstance(half[place], list):
            text += f" ± {_number(half[place])}"
        texts.append(text)
    return texts


def _label(trace: Figure, place: int) -> str:
    """What a point is called: by its text, or by the first of what hovering shows."""
    held: Any = trace.get("customdata")
    if _is_listed(held) and isinstance(held[place][0], str):
        return html.unescape(held[place][0])
    texts = trace.get("text")
    return html.unescape(texts[place]) if texts is not None and trace.get("orientation") != "h" else ""


def _name(trace: Figure, layout: Figure) -> str:
    """A trace's name, with its axis where that is the second one; one without a name is what its axis says."""
    title = _title(layout, trace.get("yaxis", "y").replace("y", "yaxis", 1))
    name = html.unescape(trace.get("name") or "")
    return f"{name}, {title}" if name and "yaxis" in trace else name or title


def _title(layout: Figure, axis: str) -> str:
    return html.unescape(layout.get(axis, {}).get("title", {}).get("text", ""))


def _ticks(layout: Figure, axis: str) -> Mapping[float, str]:
    held = layout.get(axis, {})
    return dict(zip(held.get("tickvals") or (), map(html.unescape, held.get("ticktext") or ()), strict=False))


def _is_listed(customdata: Any) -> bool:
    return bool(customdata) and isinstance(customdata[0], list | tuple)


def _number(value: Any) -> str:
    """A number to the digits that a plot holds.

    >>> [_number(each) for each in (12.0, 60.81378, -0.5, 17100.0, 1.5e-7, None)]
    ['12', '60.814', '−0.5', '17,100', '1.5e-07', '–']
    """
    if value is None:
        return DASH
    is_whole = abs(value) < 1e12 and (float(value).is_integer() or abs(value) >= 1e4)
    return (f"{value:,.0f}" if is_whole else f"{value:.5g}").replace("-", MINUS, 1 if value < 0 else 0)
