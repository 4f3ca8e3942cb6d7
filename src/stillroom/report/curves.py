"""The curves of a run: top-1, the loss and each of its terms, the learning rate; all runs laid over one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stillroom.report.figures import Chart, Figure, axis, layout, line
from stillroom.report.formats import decimal, three_digits
from stillroom.report.measures import thin
from stillroom.report.palette import LIGHT
from stillroom.report.read import Row, RunFolder

_DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class Member:
    """A run as the plots know it: its name and the role of its colour."""

    name: str
    colour: str
    run: RunFolder


def charts(members: Sequence[Member]) -> list[Chart]:
    """The plots of the curves; the first member is the run the report is about.

    Returns:
        Those for which some run has numbers, top-1 first.
    """
    found = [_top1(members), _curve("loss", "Training loss", "loss", members, _loss_words(members))]
    terms = sorted({key for member in members for row in member.run.train for key in row if key.startswith("loss/")})
    if terms and not _one_plain_term(members, terms):
        for number, term in enumerate(terms):
            name = term.removeprefix("loss/")
            words = "Before its weight is applied."
            found.append(_curve(f"term-{number}", f"Loss term: {name}", term, members, words))
    found.append(_curve("lr", "Learning rate", "lr", members, ""))
    return [chart for chart in found if chart is not None]


def _one_plain_term(members: Sequence[Member], terms: list[str]) -> bool:
    """Whether every run's loss is one term of weight 1, whose curve would be drawn twice."""
    return all(
        sum(term in row for term in terms) == 1 and all(row[t] == row.get("loss") for t in terms if t in row)
        for member in members
        for row in member.run.train
    )


def _points(rows: Sequence[Row], key: str) -> tuple[Any, Any]:
    held = [(row["epoch"], row[key]) for row in rows if key in row]
    x, y = (np.array(column, dtype=np.float64) for column in (zip(*held, strict=True) if held else ((), ())))
    return thin(x, y) if len(x) else (x, y)


def _traces(members: Sequence[Member], split: str, key: str, digits: str) -> list[Figure]:
    traces = []
    for place, member in enumerate(members):
        x, y = _points(getattr(member.run, split), key)
        if len(x):
            traces.append(
                line(
                    x.tolist(),
                    y.tolist(),
                    member.name,
                    member.colour,
                    legendgroup=f"run-{place}",
                    hovertemplate=f"%{{y:{digits}}}",
                    # The run the report is about lies on top, yet is the first in the list of what is hovered.
                    zorder=len(members) - place,
                    line={"dash": _DASHES[place % len(_DASHES)], "width": 2.5 if place == 0 else 2},
                )
            )
    return traces


def _figure(traces: list[Figure], y_title: str, **options: Any) -> Figure:
    y = options.pop("yaxis", {})
    return {
        "data": traces,
        "layout": layout(
            xaxis=axis("epoch", hoverformat=".3~g", unifiedhovertitle={"text": "epoch %{x}"}, rangemode="tozero"),
            yaxis=axis(y_title, **y),
            hovermode="x unified",
            **options,
        ),
    }


def _top1(members: Sequence[Member]) -> Chart | None:
    traces = _traces(members, "test", "top1", ".2f")
    if not traces:
        return None
    subject = members[0].run
    options: Figure = {}
    if subject.teacher is not None:
        level = subject.teacher.top1
        epochs = sorted({x for trace in traces for x in trace["x"]})
        traces.append(
            line(
                [0.0, *epochs],
                [level] * (len(epochs) + 1),
                "Teacher",
                "teacher",
                mode="lines",
                legendgroup="teacher",
                hovertemplate="%{y:.2f}",
                line={"dash": "dash", "width": 1.8},
            )
        )
        options["annotations"] = [
            {
                "x": 0,
                "y": level,
                "xanchor": "left",
                "yanchor": "bottom",
                "showarrow": False,
                "text": f"teacher {decimal(level)}%",
                "font": {"color": LIGHT["teacher"], "size": 12.5},
            }
        ]
    figure = _figure(traces, "top-1 on the test split, %", **options)
    return Chart("top1", "Test top-1", _top1_words(subject), 380, figure)


def _top1_words(run: RunFolder) -> str:
    held = [(row["epoch"], row["top1"]) for row in run.test if "top1" in row]
    if not held:
        return "This run made no evaluation on the way."
    (first, start), (last, end) = held[0], held[-1]
    if len(held) == 1:
        told = f"One evaluation, at epoch {last:g}: {decimal(end)}%."
    else:
        told = f"This student goes from {decimal(start)}% at epoch {first:g} to {decimal(end)}% at epoch {last:g}."
        best_epoch, best = max(held, key=lambda point: point[1])
        if best > end:
            told += f" Its highest point was {decimal(best)}% at epoch {best_epoch:g}; what counts is the last."
    if run.teacher is not None:
        told += f" The dashed line is the teacher’s {decimal(run.teacher.top1)}%."
    return told


def _loss_words(members: Sequence[Member]) -> str:
    terms = [{key for row in member.run.train for key in row if key.startswith("loss/")} for member in members]
    if len(members) > 1 and any(other != terms[0] for other in terms[1:]):
        return "The weighted sum that was minimised. These runs minimise different sums: compare shapes, not heights."
    return "The weighted sum that was minimised, averaged between log lines."


def _curve(key: str, title: str, column: str, members: Sequence[Member], words: str) -> Chart | None:
    traces = _traces(members, "train", column, ".4~g")
    if not traces:
        return None
    ends = [(y[0], y[-1]) for _, y in (_points(members[0].run.train, column),) if len(y)]
    # What has no curve of this run is another run's alone.
    told = "This run does not have it."
    if ends:
        start, end = ends[0]
        told = f"From {_number(start)} to {_number(end)}."
        if key == "lr":
            peak = max(row[column] for row in members[0].run.train if column in row)
            told = f"From {_number(start)}, at most {_number(peak)}, to {_number(end)} at the last log line."
    figure = _figure(traces, "learning rate" if key == "lr" else "loss", yaxis={"rangemode": "tozero"})
    return Chart(key, title, f"{words} {told}".strip(), 270, figure)


def _number(value: float) -> str:
    return three_digits(value) if value > 0 else f"{value:.3g}"
