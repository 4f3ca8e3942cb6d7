"""Files of class-incremental learning: record, joint comparison, exemplars, and parts of summary and results."""

from __future__ import annotations

from pydantic import Field, model_validator

from stillroom.errors import BadInput
from stillroom.schema.base import Count, Items, JsonFile, JsonObject, NonNegative, Percent, PositiveCount

INCREMENTAL_FILE = "incremental.json"
JOINT_FILE = "joint.json"
EXEMPLARS_FILE = "memory.json"


class TaskBalance(JsonObject):
    """Old classes against the newest ones after a task, all in per cent of test images."""

    old: Percent | None = Field(description="Accuracy on the classes of earlier tasks; null in the first task.")
    old_only: Percent | None = Field(
        description="The same where only the classes of earlier tasks are possible answers: what is still known of "
        "them among themselves."
    )
    new: Percent = Field(description="Accuracy on the classes of the newest task.")
    answered_new: Percent = Field(description="Share of all answers that fall on classes of the newest task.")
    are_new: Percent = Field(description="Share of all images that are of it: what an unbiased student would answer.")


class ExemplarCount(JsonObject):
    """The exemplars kept after a task."""

    exemplars: Count
    per_class: Items[Count] = Field(description="Of each class, in the order of classes.")
    bytes: Count = Field(description="Of their pixels.")


class MemorySettings(JsonObject):
    """How images of old classes are kept."""

    exemplars: Count = Field(description="Allowed in all.")
    selection: str
    joint: bool = Field(description="Whether each task learns from all images of all classes seen.")


class TaskRecord(JsonObject):
    """One finished task. Numbers of images; accuracies in per cent of test images."""

    task: PositiveCount
    classes: Items[Count] = Field(description="The data's class numbers.")
    train: PositiveCount = Field(description="Images learned from: new + old.")
    new: Count = Field(description="Of these, of the task's own classes.")
    old: Count = Field(description="Of these, of classes of earlier tasks.")
    test: PositiveCount
    steps: PositiveCount
    epochs: NonNegative
    accuracy: Percent = Field(description="Mean over all tasks so far.")
    pooled: Percent = Field(description="The same over images: equal where every task has as many test images.")
    balance: TaskBalance
    memory: ExemplarCount


class IncrementalMetrics(JsonObject):
    """Metrics of a whole accuracy matrix; means are over tasks."""

    average: Percent = Field(description="Average incremental accuracy, per cent.")
    average_from_second: Percent = Field(description="The same without the first task, per cent.")
    final: Percent = Field(description="After the last task, per cent.")
    forgetting: float = Field(description="Mean loss from the best accuracy on each old task, points.")
    task_local: Percent = Field(
        description="After the last task, where only the classes of an image's own task are possible answers, per cent."
    )
    old_only: Percent = Field(
        description="After the last task, on images of earlier tasks, where only their classes are possible answers."
    )


class IncrementalRecord(JsonFile):
    """``incremental.json``: the tasks that are done, and the accuracy on the classes of each after each."""

    preset: str | None
    seed: Count
    class_seed: Count
    class_order: Items[Count] = Field(description="The data's class numbers in the order in which they come.")
    class_names: Items[str] = Field(description="In the same order.")
    equal_tasks: bool = Field(description="Whether all tasks have as many classes.")
    memory: MemorySettings
    predict_by: str
    planned: PositiveCount = Field(description="Number of tasks.")
    tasks: Items[TaskRecord]
    matrix: Items[Items[Percent]] = Field(description="Row k: accuracy on the classes of tasks 1 … k after task k.")
    task_local: Items[Items[Percent]] = Field(
        description="The same where only the classes of an image's own task are possible answers."
    )
    metrics: IncrementalMetrics | None = Field(description="Null until the last task is done.")

    @model_validator(mode="after")
    def _fits_tasks(self) -> IncrementalRecord:
        check_triangular(self.matrix, len(self.tasks))
        check_triangular(self.task_local, len(self.tasks))
        if self.metrics is not None and len(self.tasks) < 2:
            raise BadInput("tasks", len(self.tasks), "2 or more")
        return self

    @property
    def accuracies(self) -> list[float]:
        """The mean accuracy over the tasks so far, after each task."""
        return [task.accuracy for task in self.tasks]


class FinishedRecord(IncrementalRecord):
    """``incremental.json`` of a finished run."""

    metrics: IncrementalMetrics


class JointComparison(JsonFile):
    """``joint.json``: a run in tasks compared with joint training on the same tasks."""

    omega: NonNegative | None = Field(description="Ω, 1 where it is as good as joint training; null where undefined.")
    why: str | None = Field(description="Why Ω is undefined.")
    accuracies: Items[Percent] = Field(description="After each task.")
    joint: Items[Percent] = Field(description="The like of joint training.")


class ExemplarRows(JsonFile):
    """``memory.json`` of a task: places in the training split of each class's exemplars, the best first."""

    task: PositiveCount
    rows: Items[Items[Count]]


class TaskLength(JsonObject):
    """What one task learned from and was evaluated on, in images, and its optimizer steps."""

    train: PositiveCount
    test: PositiveCount
    steps: PositiveCount


class IncrementalSummary(IncrementalMetrics):
    """The part ``incremental`` of ``summary.json``."""

    class_order: Items[Count]
    tasks: Items[TaskLength] = Field(min_length=2)
    memory: Count = Field(description="The most exemplars that were kept after a task.")


class MeanInterval(JsonObject):
    """A mean over seeds with its interval; no interval from one seed."""

    mean: float
    low: float | None
    high: float | None


class TaskMeans(JsonObject):
    """One task of a method, means over its seeds; per cent of test images."""

    accuracy: MeanInterval
    pooled: Percent
    old: Percent | None
    old_only: Percent | None
    task_local: Percent
    new: Percent
    answered_new: Percent
    are_new: Percent
    exemplars: Count
    bytes: Count


class MethodTasks(JsonObject):
    """A method whose classes came in tasks, over its seeds."""

    method: str
    seeds: Items[Count]
    tasks: Items[TaskMeans] = Field(min_length=1)
    matrix: Items[Items[Percent]]
    task_local: Items[Items[Percent]]
    omega: MeanInterval | None

    @model_validator(mode="after")
    def _matrix_is_triangular(self) -> MethodTasks:
        check_triangular(self.matrix, len(self.tasks))
        check_triangular(self.task_local, len(self.tasks))
        return self


class PairTasks(JsonObject):
    """The part ``incremental`` of ``results.json``: a pair's methods whose classes came in tasks."""

    pair: str
    joint: str | None = Field(description="The method that learned jointly, which Ω compares with.")
    methods: Items[MethodTasks]


def check_triangular(matrix: tuple[tuple[float, ...], ...], tasks: int) -> None:
    """Check that an accuracy matrix has a row of 1, 2, … numbers for each task; BadInput where it has not."""
    if [len(row) for row in matrix] != [*range(1, tasks + 1)]:
        raise BadInput("matrix", [list(row) for row in matrix], f"{tasks} rows of 1, 2, … numbers")
