"""The plots and the heat map that a run's page and a study's page share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stillroom.report.charts import LIGHT, Figure, axis, escaped, layout, line, rounded
from stillroom.report.formats import decimal

_DEEPEST_SHADE = 60


@dataclass(frozen=True)
class Course:
    """An accuracy after each task: its mean, and the ends of its band where there is one; how it is drawn."""

    name: str
    mean: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None
    colour: str
    dash: str = "solid"
    symbol: str = "circle"
    group: str = ""
    margin: str = "± %{customdata}"


@dataclass(frozen=True)
class Square:
    """A cell of the matrix: its number, how deep its colour is in per cent, all of it in words."""

    text: str
    shade: int
    told: str


@dataclass(frozen=True)
class Heat:
    """An accuracy matrix as a table: a row after each task, a column for the classes of each."""

    title: str
    rows: tuple[tuple[Square | None, ...], ...]


def accuracy_figure(courses: Sequence[Course]) -> Figure:
    """Accuracy over all classes seen, after each task, a band around each line that has one."""
    traces: list[Figure] = []
    for place, course in enumerate(courses):
        if course.low is not None and course.high is not None:
            traces.append(_area(course, course.low, course.high))
        traces.append(_line(course, len(courses) - place))
    return {
        "data": traces,
        "layout": layout(
            xaxis=_tasks_axis(max((len(course.mean) for course in courses), default=1)),
            yaxis=axis("mean accuracy on the tasks so far, %", rangemode="tozero"),
            hovermode="x unified" if len(courses) <= 6 else "closest",
        ),
    }


def balance_figure(
    old: Sequence[float | None], new: Sequence[float], answered: Sequence[float], are: Sequence[float]
) -> Figure:
    """Accuracy on old classes and on the newest, and where answers fall, after each task but the first."""
    tasks = [float(task) for task in range(2, len(new) + 1)]
    shown = [
        ("old classes", [value or 0.0 for value in old[1:]], "student", "solid"),
        ("newest classes", list(new[1:]), "lost", "solid"),
        ("answers on the newest", list(answered[1:]), "other-1", "dash"),
        ("images of the newest", list(are[1:]), "axis", "dot"),
    ]
    traces = [
        line(tasks, values, name, colour, mode="lines+markers", hovertemplate="%{y:.1f}%", line={"dash": dash})
        for name, values, colour, dash in shown
    ]
    return {
        "data": traces,
        "layout": layout(
            xaxis=_tasks_axis(len(new)), yaxis=axis("% of test images", range=[0, 103]), hovermode="x unified"
        ),
    }


def heat(title: str, matrix: Sequence[Sequence[float]]) -> Heat:
    """An accuracy matrix, each number shaded by its size."""
    return Heat(
        title,
        tuple(
            tuple(
                Square(
                    decimal(row[task]),
                    round(_DEEPEST_SHADE * row[task] / 100),
                    f"classes of task {task + 1} after task {after}: {decimal(row[task], 2)}%",
                )
                if task < len(row)
                else None
                for task in range(len(matrix))
            )
            for after, row in enumerate(matrix, start=1)
        ),
    )


def _line(course: Course, order: int) -> Figure:
    margins = None
    if course.low is not None and course.high is not None:
        margins = rounded([(high - low) / 2 for low, high in zip(course.low, course.high, strict=True)], 3)
    return line(
        [float(task) for task in range(1, len(course.mean) + 1)],
        course.mean,
        course.name,
        course.colour,
        legendgroup=course.group,
        hovertemplate="%{y:.2f}%" + (f" {course.margin}" if margins else "") + f"<extra>{escaped(course.name)}</extra>",
        customdata=margins,
        zorder=order + 1,
        line={"dash": course.dash, "width": 2},
        marker={"size": 6, "color": LIGHT[course.colour], "symbol": course.symbol},
    )


def _area(course: Course, low: Sequence[float], high: Sequence[float]) -> Figure:
    there = [float(task) for task in range(1, len(low) + 1)]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*there, *reversed(there)],
        "y": rounded([*high, *reversed(low)]),
        "fill": "toself",
        "fillcolor": LIGHT[course.colour],
        "line": {"color": LIGHT[course.colour], "width": 0},
        "opacity": 0.16,
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": course.group,
        "meta": "band",
    }


def _tasks_axis(tasks: int) -> Figure:
    return axis("after task", dtick=1 if tasks <= 12 else 2, unifiedhovertitle={"text": "after task %{x}"})
