"""Plots over the training: how many concepts there are, how many come and go; and how alike layers are (CKA)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stillroom.report.charts import (
    LIGHT,
    Chart,
    Figure,
    axis,
    band,
    escaped,
    figure_of,
    line,
    nice,
    over_epochs,
    rounded,
)
from stillroom.report.charts import level as horizontal
from stillroom.report.explain.maps import ExplanationMaps, name_of, sides
from stillroom.report.formats import amount
from stillroom.schema.explanation import CkaTable, Explanation

# Beyond so many taps their names would lie over one another.
_MOST_NAMES = 24
_COURSES = {
    "n_fg": ("Concepts on the subject, N_fg", "cells an image"),
    "n_bg": ("Concepts on the background, N_bg", "cells an image"),
    "ratio": ("The subject’s share, λ", "share"),
}
Means = NDArray[np.float64]


def courses(explanation: Explanation) -> list[Chart]:
    """The counts over the training, mean over seeds, with the middle half of the images as a band."""
    return [_course(explanation, key) for key in _COURSES]


def _course(explanation: Explanation, key: str) -> Chart:
    title, label = _COURSES[key]
    traces: list[Figure] = []
    words = []
    for name, colour, places in sides(explanation):
        runs = [explanation.runs[place] for place in places]
        columns = list(zip(*(run.checkpoints for run in runs), strict=True))
        means = [mean_of([getattr(one, key) for one in column]) for column in columns]
        quartiles = [[getattr(one, f"{key}_quartiles", None) for one in column] for column in columns]
        if all(each is not None for column in quartiles for each in column):
            ends = [[mean_of([each[end] for each in column if each]) or 0.0 for column in quartiles] for end in (0, 1)]
            traces.append(band(explanation.epochs, ends[0], ends[1], colour))
        traces.append(
            line(
                explanation.epochs,
                [float("nan") if mean is None else mean for mean in means],
                name,
                colour,
                hovertemplate=f"%{{y:.3~g}}<extra>{escaped(name)}</extra>",
            )
        )
        words.append(f"{name}: from {amount(means[0])} to {amount(means[-1])}.")
    level = getattr(explanation.teacher, key) if explanation.teacher is not None else None
    if level is not None:
        ends_of = [explanation.epochs[0], explanation.epochs[-1]]
        traces.append(horizontal(ends_of, level, "Teacher", "teacher", "dash", hovertemplate="%{y:.3~g}"))
        words.append(f"Teacher: {amount(level)}.")
    figure = over_epochs(traces, label, rangemode="tozero")
    return Chart(f"course-{key}", title, " ".join(words), 300, figure)


def changes(explanation: Explanation, maps: ExplanationMaps) -> list[Chart]:
    """How many concepts were born and died between checkpoints; none where there is but one."""
    if len(explanation.epochs) < 2:
        return []
    places = (("foreground", "On the subject", maps.foreground), ("background", "On the background", ~maps.foreground))
    counted = [
        (key, title, [turnover([maps.concepts[one] for one in runs], where) for _, _, runs in sides(explanation)])
        for key, title, where in places
    ]
    # One scale for both, so that they can be compared.
    most = [max(float(pair[end].max()) for _, _, of_sides in counted for pair in of_sides) for end in (0, 1)]
    return [_change(explanation, key, title, of_sides, (most[0], most[1])) for key, title, of_sides in counted]


def turnover(concepts: Sequence[NDArray[np.bool_]], where: NDArray[np.bool_]) -> tuple[Means, Means]:
    """How many concepts of an image were born and died since the checkpoint before.

    Args:
        concepts: of each seed, [M, I, g, g].
        where: which cells count, [I, g, g].

    Returns:
        Born and died, [M − 1] each, means over images and seeds.

    >>> born, died = turnover([np.array([[[[True, False]]], [[[False, True]]]])], np.ones((1, 1, 2), dtype=bool))
    >>> born.tolist(), died.tolist()
    ([1.0], [1.0])
    """
    born = np.mean([((one[1:] & ~one[:-1]) & where).sum((2, 3)).mean(1) for one in concepts], axis=0)
    died = np.mean([((one[:-1] & ~one[1:]) & where).sum((2, 3)).mean(1) for one in concepts], axis=0)
    return born, died


def _change(
    explanation: Explanation, key: str, title: str, of_sides: Sequence[tuple[Means, Means]], most: tuple[float, float]
) -> Chart:
    steps = list(range(1, len(explanation.epochs)))
    width = 0.8 / len(of_sides)
    traces: list[Figure] = []
    words = []
    for place, ((name, colour, _), (born, died)) in enumerate(zip(sides(explanation), of_sides, strict=True)):
        for sign, what, values in ((1, "born", born), (-1, "died", died)):
            traces.append(
                {
                    "type": "bar",
                    "name": f"{escaped(name)}: {what}",
                    "x": steps,
                    "y": rounded(sign * values),
                    "offset": place * width - 0.4,
                    "width": width * 0.92,
                    "customdata": rounded(values, 3),
                    "hovertemplate": f"{escaped(name)}: %{{customdata}} {what}<extra></extra>",
                    "marker": {"color": LIGHT[colour], "opacity": 1.0 if sign > 0 else 0.55},
                }
            )
        words.append(f"{name}: {amount(float(born.sum()), 1)} born and {amount(float(died.sum()), 1)} died in all.")
    edge = 0.06 * (sum(most) or 1.0)
    ends = -most[1] - edge, most[0] + edge
    ticks = nice(*ends, 5)
    epochs = [f"{epoch:g}" for epoch in explanation.epochs[1:]]
    x = axis("up to epoch", tickmode="array", tickvals=steps, ticktext=epochs, fixedrange=True)
    y = axis(
        "died  ·  born, cells an image",
        range=rounded(ends),
        zeroline=True,
        fixedrange=True,
        zerolinecolor=LIGHT["ink"],
        tickmode="array",
        tickvals=rounded(ticks),
        # Below the line are as many that died: a count, not a negative number.
        ticktext=[f"{abs(tick):.3g}" for tick in ticks],
    )
    figure = figure_of(traces, x, y, hovermode="x unified", barmode="overlay")
    return Chart(f"change-{key}", title, " ".join(words), 300, figure)


def alike(explanation: Explanation) -> list[Chart]:
    """Linear CKA of each pair of networks."""
    return [_cka(explanation, place, one) for place, one in enumerate(explanation.cka)]


def _cka(explanation: Explanation, place: int, cka: CkaTable) -> Chart:
    one, other = name_of(explanation, cka.one), name_of(explanation, cka.other)
    last = next((value for value in [cka.values[-1][-1]] if value is not None), None)
    words = f"Rows: {one.lower()}. Columns: {other.lower() if cka.other != 'teacher' else 'the teacher'}."
    if last is not None:
        words += f" Last with last: {amount(last)}."
    heatmap = {
        "type": "heatmap",
        "z": [rounded([float("nan") if each is None else each for each in row], 3) for row in cka.values],
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, LIGHT["surface"]], [1, LIGHT["student"]]],
        "showscale": False,
        "hovertemplate": "%{y}<br>%{x}<br><b>CKA %{z:.2f}</b><extra></extra>",
        "hoverongaps": False,
        "xgap": 1,
        "ygap": 1,
    }
    x = _taps(cka.other_taps) | {"tickangle": 90}
    y = _taps(cka.one_taps) | {"range": [len(cka.one_taps) - 0.5, -0.5]}
    figure = figure_of([heatmap], x, y, margin={"l": 4, "r": 4, "t": 6, "b": 6}, hovermode="closest")
    return Chart(f"cka-{place}", f"{one} · {other}", words, 330, figure)


def _taps(names: Sequence[str]) -> Figure:
    places = list(range(len(names)))
    return axis(
        "",
        tickmode="array",
        tickvals=places,
        ticktext=[escaped(name, 18) for name in names],
        showticklabels=len(names) <= _MOST_NAMES,
        tickfont={"size": 10},
        ticks="",
        showgrid=False,
        range=[-0.5, len(names) - 0.5],
    )


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of those that are known; None where there are none.

    >>> mean_of([1.0, None, 2.0]), mean_of([None])
    (1.5, None)
    """
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
