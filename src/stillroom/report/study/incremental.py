"""What a study's page shows of methods whose classes came in tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stillroom.report.charts import Chart, SeriesStyle
from stillroom.report.formats import DASH, decimal, scaled, whole
from stillroom.report.incremental.plots import Course, Heat, accuracy_figure, heat
from stillroom.schema.study import MethodTasks, PairIncremental, StudyResults

_COLUMNS = ("Old, %", "New, %", "Answers on new, %", "Ω", "Exemplars", "Memory")


@dataclass(frozen=True)
class MethodCells:
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
    rows: tuple[MethodCells, ...]
    note: str


def in_tasks(study: StudyResults, styles: Mapping[str, SeriesStyle]) -> tuple[PairTasks, ...]:
    """What the results say of tasks; nothing where no method had any."""
    return tuple(_pair(study, styles, place, each) for place, each in enumerate(study.incremental))


def _pair(study: StudyResults, styles: Mapping[str, SeriesStyle], place: int, found: PairIncremental) -> PairTasks:
    by_name = {each.method: each for each in found.methods}
    held = {name: by_name[name] for name in study.names if name in by_name}
    courses = [_course(study, name, styles[name], each) for name, each in held.items()]
    title = "Accuracy after each task"
    words = (
        "The mean over the tasks so far, over all classes seen: no task is named to the student. Lines are means over "
        f"the seeds, bands their {study.percent} intervals."
    )
    note = "Old and new: accuracy on the test images of earlier tasks and of the last, after the last task. "
    if found.offline is None:
        note += "No method learned jointly, so there is no Ω."
    else:
        learned = f"{found.offline}’s, which learned jointly; the mean over tasks."
        note += f"Ω: the accuracy after each task as a share of {learned}"
    return PairTasks(
        pair=found.pair,
        chart=Chart(f"tasks-{place}", title, words, 420, accuracy_figure(courses)),
        heats=tuple(heat(name, each.matrix) for name, each in held.items()),
        columns=_COLUMNS,
        rows=tuple(MethodCells(name, _cells(each)) for name, each in held.items()),
        note=note,
    )


def _course(study: StudyResults, name: str, style: SeriesStyle, found: MethodTasks) -> Course:
    spreads = [task.accuracy for task in found.tasks]
    # Seeds may all be alike after one task and not after another: no interval is no width.
    low, high = (
        tuple(
            spread.mean if end is None else min(max(end, 0.0), 100.0) for spread, end in zip(spreads, ends, strict=True)
        )
        for ends in ([spread.low for spread in spreads], [spread.high for spread in spreads])
    )
    banded = any(spread.low is not None for spread in spreads)
    return Course(
        name=name,
        mean=tuple(spread.mean for spread in spreads),
        low=low if banded else None,
        high=high if banded else None,
        colour=style.colour,
        dash=style.dash,
        symbol=style.symbol,
        group=f"run-{study.names.index(name)}",
    )


def _cells(found: MethodTasks) -> tuple[str, ...]:
    last, omega = found.tasks[-1], found.omega
    kept = max(task.exemplars for task in found.tasks)
    size = max(task.bytes for task in found.tasks)
    text = DASH
    if omega is not None:
        bounds = "" if omega.low is None else f" [{decimal(omega.low, 3)}, {decimal(omega.high, 3)}]"
        text = decimal(omega.mean, 3) + bounds
    return (
        decimal(last.old),
        decimal(last.new),
        f"{decimal(last.answered_new)} of {decimal(last.are_new)}",
        text,
        whole(kept) if kept else DASH,
        scaled(size, "B") if size else DASH,
    )
