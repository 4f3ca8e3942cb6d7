"""The exemplars after a task: chosen by its student, written beside its run, read again where they are there."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from stillroom.continual.exemplars import Memory, Rows, drawn, enlarged, herded
from stillroom.continual.features import features_of
from stillroom.continual.sequence import Sequence
from stillroom.errors import BadInput
from stillroom.files import write_text
from stillroom.models.prepared import PreparedModel
from stillroom.run.records import read_json

_NAME = "memory.json"


def remembered(sequence: Sequence, folder: Path, task: int, kept: Memory, student: PreparedModel) -> Memory:
    """The exemplars after a task.

    Args:
        sequence: all tasks.
        folder: the task's run, finished.
        task: counted from 1.
        kept: the exemplars before it.
        student: the task's, by whose features they are chosen.

    Raises:
        BadInput: those that were written down are damaged.
    """
    settings, tasks = sequence.settings, sequence.tasks
    if not settings.memory:
        return Memory()
    path, seen = folder / _NAME, sequence.order.seen
    if path.exists():
        return _read(path, seen(task), len(tasks.data.train))

    def choose(number: int, rows: Rows, count: int) -> Rows:
        if settings.selection == "random":
            picked = drawn(len(rows), count, sequence.recipe.seed, number)
        else:
            images = tasks.data.train.images[torch.from_numpy(rows)]
            picked = herded(features_of(student, images), count).numpy()
        chosen: Rows = rows[picked]
        return chosen

    new = [tasks.rows(number) for number in range(seen(task - 1), seen(task))]
    memory = enlarged(kept, new, tasks.each(task), choose)
    # Not indented: each number would be a line of its own.
    write_text(path, json.dumps({"schema": 1, "task": task, "rows": memory.rows}) + "\n")
    return memory


def _read(path: Path, classes: int, images: int) -> Memory:
    rows = read_json(path).get("rows")
    if not isinstance(rows, list) or len(rows) != classes or not all(_are_rows(each, images) for each in rows):
        raise BadInput("--resume", str(path), "exemplars of every class seen; remove the file to choose them again")
    return Memory(tuple(tuple(each) for each in rows))


def _are_rows(each: object, images: int) -> bool:
    return isinstance(each, list) and len(each) > 0 and all(type(row) is int and 0 <= row < images for row in each)
