"""What a study's page shows of methods whose classes came in tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stillroom.report.fields import Fields
from stillroom.report.figures import Chart
from stillroom.report.formats import DASH, decimal, scaled, whole
from stillroom.report.incremental.plots import Course, Heat, accuracy_figure, heat
from stillroom.report.incremental.read import matrix_of
from stillroom.report.read import read_object
from stillroom.report.study.looks import Look
from stillroom.report.study.model import Study

RESULTS = "results.json"


@dataclass(frozen=True)
class Row:
    """A method's line in the table of balance and memory."""

    name: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class PairTasks:
    """One pair: accuracy after each task, each method's matrix, the table."""

    pair: str
    chart: Chart
    heats: tuple[Heat, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str


_COLUMNS = ("Old, %", "New, %", "Answers on new, %", "Ω", "Exemplars", "Memory")


def in_tasks(study: Study, look: Mapping[str, Look]) -> tuple[PairTasks, ...]:
    """What ``results.json`` says of tasks; nothing where it says nothing.

    Raises:
        BadInput: it is of another form.
    """
    path = study.path / RESULTS
    fields = Fields(path, read_object(path))
    return tuple(_pair(study, look, place, each) for place, each in enumerate(fields.listed("incremental")))


def _pair(study: Study, look: Mapping[str, Look], place: int, fields: Fields) -> PairTasks:
    held = {each.text("method"): each for each in fields.listed("methods")}
    held = {name: held[name] for name in study.names if name in held}
    offline = fields.maybe_text("offline")
    courses = [_course(study, name, look[name], each.listed("tasks")) for name, each in held.items()]
    title = "Accuracy after each task"
    words = (
        "The mean over the tasks so far, over all classes seen: no task is named to the student. Lines are means over "
        f"the seeds, bands their {study.percent} intervals."
    )
    note = "Old and new: accuracy on the test images of earlier tasks and of the last, after the last task. "
    if offline is None:
        note += "No method learned jointly, so there is no Ω."
    else:
        note += (
            f"Ω: the accuracy after each task as a share of {offline}’s, which learned jointly; the mean over tasks."
        )
    return PairTasks(
        pair=fields.text("pair"),
        chart=Chart(f"tasks-{place}", title, words, 420, accuracy_figure(courses)),
        heats=tuple(heat(name, matrix_of(each, len(each.listed("tasks")))) for name, each in held.items()),
        columns=_COLUMNS,
        rows=tuple(Row(name, _cells(each)) for name, each in held.items()),
        note=note,
    )


def _course(study: Study, name: str, look: Look, tasks: Sequence[Fields]) -> Course:
    spreads = [task.inside("accuracy") for task in tasks]
    lows, highs = ([spread.maybe_number(end) for spread in spreads] for end in ("low", "high"))
    means = tuple(spread.number("mean") for spread in spreads)
    # Seeds may all be alike after one task and not after another: no interval is no width.
    low, high = (
        tuple(mean if end is None else min(max(end, 0.0), 100.0) for mean, end in zip(means, ends, strict=True))
        for ends in (lows, highs)
    )
    banded = any(end is not None for end in lows)
    return Course(
        name=name,
        mean=means,
        low=low if banded else None,
        high=high if banded else None,
        colour=look.colour,
        dash=look.dash,
        symbol=look.symbol,
        group=f"run-{study.names.index(name)}",
    )


def _cells(fields: Fields) -> tuple[str, ...]:
    tasks = fields.listed("tasks")
    last, omega = tasks[-1], fields.maybe_inside("omega")
    kept = max(task.whole("exemplars") for task in tasks)
    size = max(task.whole("bytes") for task in tasks)
    share = f"{decimal(last.number('answered_new'))} of {decimal(last.number('are_new'))}"
    told = DASH
    if omega is not None:
        low, high = omega.maybe_number("low"), omega.maybe_number("high")
        told = decimal(omega.number("mean"), 3)
        told += "" if low is None else f" [{decimal(low, 3)}, {decimal(high, 3)}]"
    return (
        decimal(last.maybe_number("old")),
        decimal(last.number("new")),
        share,
        told,
        whole(kept) if kept else DASH,
        scaled(size, "B") if size else DASH,
    )
