"""``incremental.json`` of a run whose classes came in tasks, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillroom.errors import BadInput
from stillroom.report.fields import Fields, is_finite

INCREMENTAL, OFFLINE = "incremental.json", "offline.json"


@dataclass(frozen=True)
class Task:
    """One task: its classes, images learned from (its own, and of old classes), and what the student then came to.

    ``accuracy`` is the mean over all tasks so far, ``pooled`` that over images; all in per cent of test images. ``old``
    and ``new`` are the accuracies on classes of earlier tasks and of this one, ``answered_new`` the share of answers
    that fall on this one's classes, ``are_new`` the share of images that are of them.
    """

    classes: tuple[str, ...]
    learned_new: int
    learned_old: int
    test: int
    accuracy: float
    pooled: float
    old: float | None
    new: float
    answered_new: float
    are_new: float
    exemplars: int
    bytes: int


@dataclass(frozen=True)
class Incremental:
    """A whole: its tasks, the accuracy on the classes of each task (columns) after each (rows), and means of these."""

    tasks: tuple[Task, ...]
    matrix: tuple[tuple[float, ...], ...]
    equal_tasks: bool
    memory: int
    selection: str
    joint: bool
    predict_by: str
    average: float
    average_from_second: float
    final: float
    forgetting: float
    omega: float | None


def read_incremental(run: Path, content: dict[str, Any], offline: dict[str, Any] | None) -> Incremental:
    """Read what a finished run says of its tasks.

    Args:
        run: its folder.
        content: of ``incremental.json``.
        offline: of ``offline.json``, where the run was set against joint training.

    Raises:
        BadInput: a field is missing, or of another form.
    """
    fields = Fields(run / INCREMENTAL, content)
    fields.one_of("schema", (1,))
    names = fields.texts("class_names")
    held = fields.listed("tasks")
    matrix = matrix_of(fields, len(held))
    metrics, memory = fields.inside("metrics"), fields.inside("memory")
    tasks, first = [], 0
    for each in held:
        count = len(each.wholes("classes"))
        tasks.append(_task(each, names[first : first + count]))
        first += count
    return Incremental(
        tasks=tuple(tasks),
        matrix=matrix,
        equal_tasks=fields.flag("equal_tasks", otherwise=True),
        memory=memory.whole("exemplars"),
        selection=memory.maybe_text("selection") or "",
        joint=memory.flag("joint", otherwise=False),
        predict_by=fields.maybe_text("predict_by") or "logits",
        average=metrics.number("average"),
        average_from_second=metrics.number("average_from_second"),
        final=metrics.number("final"),
        forgetting=metrics.number("forgetting"),
        omega=Fields(run / OFFLINE, offline).maybe_number("omega") if offline is not None else None,
    )


def matrix_of(fields: Fields, tasks: int) -> tuple[tuple[float, ...], ...]:
    """The accuracies on each task after each, in per cent.

    Raises:
        BadInput: they are not rows of 1, 2, … numbers, one for each task.
    """
    rows = fields.content.get("matrix")
    whole = isinstance(rows, list) and len(rows) == tasks > 0
    if not whole or not all(
        isinstance(row, list) and len(row) == place and all(is_finite(v) and 0 <= v <= 100 for v in row)
        for place, row in enumerate(rows or [], start=1)
    ):
        raise BadInput(f"{fields.path}: {fields.prefix}matrix", rows, f"{tasks} rows of 1, 2, … numbers from 0 to 100")
    return tuple(tuple(map(float, row)) for row in rows or [])


def _task(fields: Fields, names: tuple[str, ...]) -> Task:
    balance, memory = fields.inside("balance"), fields.inside("memory")
    return Task(
        classes=names,
        learned_new=fields.whole("new"),
        learned_old=fields.whole("old"),
        test=fields.whole("test", low=1),
        accuracy=fields.number("accuracy", low=0, high=100),
        pooled=fields.number("pooled", low=0, high=100),
        old=balance.maybe_number("old", low=0, high=100),
        new=balance.number("new", low=0, high=100),
        answered_new=balance.number("answered_new", low=0, high=100),
        are_new=balance.number("are_new", low=0, high=100),
        exemplars=memory.whole("exemplars"),
        bytes=memory.whole("bytes"),
    )
