"""What runs whose classes came in tasks left, read and checked: in their summary, and in ``incremental.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillroom.config import bad_input
from stillroom.run.records import read_json

NAME = "incremental.json"


class _Facts(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class TaskFacts(_Facts):
    """What one task learned from and was judged on, in images."""

    train: int = Field(ge=1)
    test: int = Field(ge=1)
    steps: int = Field(ge=1)


class IncrementalFacts(_Facts):
    """What the summary says of all tasks, in per cent and points."""

    average: float
    final: float
    forgetting: float
    class_order: list[int]
    tasks: list[TaskFacts] = Field(min_length=2)


class BalanceFacts(_Facts):
    """Old classes against new ones, in per cent of test images."""

    old: float | None
    new: float
    answered_new: float
    are_new: float


class MemoryFacts(_Facts):
    """What was kept after a task."""

    exemplars: int = Field(ge=0)
    bytes: int = Field(ge=0)


class TaskRecord(_Facts):
    """One task: the mean accuracy over all tasks so far, the same over images, and what else is told of it."""

    accuracy: float
    pooled: float
    old: int = Field(ge=0)
    balance: BalanceFacts
    memory: MemoryFacts


class Record(_Facts):
    """The content of ``incremental.json``."""

    version: Literal[1] = Field(alias="schema")
    equal_tasks: bool
    matrix: list[list[float]] = Field(min_length=2)
    tasks: list[TaskRecord] = Field(min_length=2)


def read_record(run: Path) -> Record:
    """Read what a finished run in tasks says of each of them.

    Raises:
        BadInput: the file is missing or damaged.
    """
    path = run / NAME
    try:
        return Record.model_validate(read_json(path))
    except ValidationError as error:
        raise bad_input(error, Record).within(str(path)) from None
