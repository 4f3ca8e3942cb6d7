"""What a model learns of each image: one class, several classes, or numbers; and the measures of each task.

The rest of the package asks this table, so that a task is described in one place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Task = Literal["single_label", "multi_label", "regression"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True)
class Measure:
    """A measure of a model's outputs on a split.

    >>> TASK_INFO["multi_label"].primary.written(81.5), TASK_INFO["regression"].primary.written(None)
    ('81.50%', '–')
    """

    name: str  # its name in files
    title: str  # what tables call it
    unit: str  # %, nats, or none
    digits: int  # decimals that are shown
    higher_is_better: bool
    meaning: str  # for the glossary

    @property
    def best(self) -> float:
        """A perfect model's value, of a measure that is better where it is higher."""
        return 100.0 if self.unit == "%" else 1.0

    def written(self, value: float | None) -> str:
        """A value with its unit; a dash for none."""
        if value is None:
            return "–"
        return f"{value:.{self.digits}f}{'%' if self.unit == '%' else ''}"


@dataclass(frozen=True)
class TaskInfo:
    """A task in words, and how its models are measured; the first measure ranks them."""

    title: str  # for sentences: "multi-label data"
    outputs: str  # what the K outputs of a model are called
    measures: tuple[Measure, ...]  # of a model against the labels
    compared: tuple[Measure, ...]  # of a student against its teacher
    reason: str  # why a loss made for other tasks cannot be computed

    @property
    def primary(self) -> Measure:
        """The measure that ranks models."""
        return self.measures[0]


TASK_INFO: dict[Task, TaskInfo] = {
    "single_label": TaskInfo(
        "single-label data",
        "classes",
        (
            Measure("top1", "top-1", "%", 2, True, "Share of test $images whose most probable class is the true one."),
            Measure("top5", "top-5", "%", 2, True, "Share whose true class is among the five most probable."),
            Measure("nll", "NLL", "nats", 4, False, "Mean of −log of the true class's probability."),
            Measure("ece", "calibration error", "", 4, False, "How far confidence is from accuracy, over 15 bins."),
        ),
        (
            Measure("agreement", "agreement with teacher", "%", 2, True, "Share of $images with the same top-1."),
            Measure("teacher_kl", "KL to teacher", "nats", 4, False, "Mean KL divergence from the teacher's answer."),
        ),
        "an image has one class of several here, and this loss has no meaning for that",
    ),
    "multi_label": TaskInfo(
        "multi-label data",
        "classes",
        (
            Measure("map", "mAP", "%", 2, True, "Average precision of each class, averaged over the classes."),
            Measure("macro_f1", "macro F1", "%", 2, True, "F1 of each class at probability .5, averaged."),
            Measure("micro_f1", "micro F1", "%", 2, True, "F1 at probability .5 of all decisions together."),
            Measure("bce", "BCE", "nats", 4, False, "Binary cross-entropy, averaged over $images and classes."),
        ),
        (
            Measure("agreement", "agreement with teacher", "%", 2, True, "Share of yes-or-no decisions that agree."),
            Measure(
                "teacher_kl",
                "KL to teacher",
                "nats",
                4,
                False,
                "Bernoulli KL divergence, averaged over $images and classes.",
            ),
        ),
        "an image may have several classes or none here, and this loss compares distributions over classes of which "
        "one is true",
    ),
    "regression": TaskInfo(
        "regression data",
        "targets",
        (
            Measure(
                "r2",
                "R²",
                "",
                4,
                True,
                "Share of a target's variance explained, averaged over the targets; "
                "1 is exact, 0 is no better than the mean.",
            ),
            Measure("mae", "MAE", "", 4, False, "Mean absolute error, averaged over the targets, in their unit."),
            Measure("mse", "MSE", "", 4, False, "Mean squared error, averaged over the targets."),
        ),
        (Measure("teacher_mae", "MAE to teacher", "", 4, False, "Mean absolute difference from the teacher."),),
        "labels are numbers here, and this loss reads class probabilities",
    ),
}
