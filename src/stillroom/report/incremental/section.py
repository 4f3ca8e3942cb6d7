"""What a run's page shows of classes that came in tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from stillroom.report.charts import Chart
from stillroom.report.formats import DASH, counted, decimal, join, scaled, whole
from stillroom.report.incremental.plots import Course, Heat, accuracy_figure, balance_figure, heat
from stillroom.report.incremental.read import Incremental
from stillroom.report.run.charts import Member

_DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class Line:
    """A task as a row of the table."""

    task: str
    classes: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Tasks:
    """All that the section shows."""

    sentences: tuple[str, ...]
    accuracy: Chart
    legend: tuple[Course, ...]
    heat: Heat
    balance: Chart
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    @property
    def charts(self) -> tuple[Chart, ...]:
        """Every plot of the section."""
        return (self.accuracy, self.balance)


def tasks(members: Sequence[Member]) -> Tasks | None:
    """Lay out the section; None where the run's classes came all at once.

    Args:
        members: the runs, the one that the page is about first; others are shown where they came in tasks, too.
    """
    found = members[0].run.incremental
    if found is None:
        return None
    courses = _courses([member for member in members if member.run.incremental is not None])
    old = [task.old for task in found.tasks]
    new, answered, are = ([getattr(t, name) for t in found.tasks] for name in ("new", "answered_new", "are_new"))
    return Tasks(
        sentences=tuple(_sentences(found)),
        accuracy=Chart("tasks", "Accuracy after each task", _accuracy_words(courses), 340, accuracy_figure(courses)),
        legend=tuple(courses),
        heat=heat("Accuracy on each task after each", found.matrix),
        balance=Chart(
            "balance", "Old classes against new", _BALANCE_WORDS, 340, balance_figure(old, new, answered, are)
        ),
        columns=_COLUMNS,
        lines=tuple(_lines(found)),
        notes=tuple(_notes(found)),
    )


_COLUMNS = (
    "Learned, new", "Learned, old", "Test", "Mean, %", "Old, %", "New, %", "Answers on new, %", "Exemplars", "Memory",
)  # fmt: skip
_BALANCE_WORDS = (
    "A student that leans to what it saw last gives the newest classes more answers (dashed) than there are images of "
    "them (dotted), and old classes pay for it."
)


def _courses(members: Sequence[Member]) -> list[Course]:
    """A line for each recipe: runs that differ in the seed alone are one, its band from the lowest to the highest."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        recipe = {key: value for key, value in member.run.recipe.items() if key not in ("seed", "name")}
        groups.setdefault(json.dumps(recipe, sort_keys=True, default=str), []).append(member)
    courses = []
    for place, group in enumerate(groups.values()):
        held = [[task.accuracy for task in one.run.incremental.tasks] for one in group if one.run.incremental]
        columns = list(zip(*held, strict=False))
        several = len(held) > 1
        courses.append(
            Course(
                name=f"{group[0].run.name}, {counted(len(held), 'seed')}" if several else group[0].name,
                mean=tuple(sum(column) / len(column) for column in columns),
                low=tuple(min(column) for column in columns) if several else None,
                high=tuple(max(column) for column in columns) if several else None,
                colour=group[0].colour,
                dash=_DASHES[place % len(_DASHES)],
                group=f"tasks-{place}",
            )
        )
    return courses


def _accuracy_words(courses: Sequence[Course]) -> str:
    told = "The mean over all tasks so far, over all classes seen: no task is named to the student."
    if any(course.low is not None for course in courses):
        told += " Runs that differ in the seed alone are one line, their mean, with a band from lowest to highest."
    return told


def _sentences(found: Incremental) -> list[str]:
    classes, last = sum(len(task.classes) for task in found.tasks), found.tasks[-1]
    first = (
        f"{whole(classes)} classes came in {len(found.tasks)} tasks. After the last the student is right on "
        f"{decimal(found.final)}% (the mean over tasks); averaged over all tasks it was {decimal(found.average)}%, "
        f"without the first {decimal(found.average_from_second)}%. "
    )
    if found.forgetting > 0:
        first += f"Of the best that it was on each old task, it lost {decimal(found.forgetting)} points on average."
    else:
        first += f"It lost nothing of old tasks: they gained {decimal(-found.forgetting)} points on average."
    second = (
        f"In the end {decimal(last.answered_new)}% of its answers fall on the newest classes, which are "
        f"{decimal(last.are_new)}% of the images: it is right on {decimal(last.new)}% of these, and on "
        f"{decimal(last.old)}% of the old ones."
    )
    told = [first, second]
    if found.omega is not None:
        told.append(f"It keeps Ω = {decimal(found.omega, 3)} of what joint training has after each task, 1 being all.")
    return told


def _lines(found: Incremental) -> list[Line]:
    lines = []
    for number, task in enumerate(found.tasks, start=1):
        cells = (
            whole(task.learned_new), whole(task.learned_old), whole(task.test), decimal(task.accuracy, 2),
            decimal(task.old, 2), decimal(task.new, 2), f"{decimal(task.answered_new)} of {decimal(task.are_new)}",
            whole(task.exemplars), scaled(task.bytes, "B") if task.bytes else DASH,
        )  # fmt: skip
        lines.append(Line(str(number), ", ".join(task.classes), cells))
    return lines


def _notes(found: Incremental) -> list[str]:
    notes = []
    if found.joint:
        notes.append("Joint training: every task learns from all images of all classes seen, so this is a ceiling.")
    elif found.memory:
        most = max(task.exemplars for task in found.tasks)
        notes.append(
            f"Up to {whole(found.memory)} training images were kept, the same number of each class, chosen "
            f"{'by herding' if found.selection == 'herding' else 'at random'}; {whole(most)} at the most. "
            "Memory: their pixels."
        )
    else:
        notes.append("No image of an old class was kept.")
    if found.predict_by == "nearest_mean":
        notes.append("The nearest mean of exemplars answers, in penultimate features of length 1, not the logits.")
    if not found.equal_tasks:
        sizes = join([str(len(task.classes)) for task in found.tasks])
        notes.append(f"Tasks have {sizes} classes; in every mean over tasks each counts alike.")
    uneven = [task for task in found.tasks if abs(task.accuracy - task.pooled) > 0.005]
    if uneven:
        last = found.tasks[-1]
        notes.append(
            "Tasks do not have the same number of test images, so the mean over tasks is not that over images: in the "
            f"end {decimal(last.accuracy, 2)}% and {decimal(last.pooled, 2)}%."
        )
    notes.append(
        "Forgetting: the best accuracy on a task before the last, less that after the last, the mean over all tasks "
        "but the last."
    )
    return notes
