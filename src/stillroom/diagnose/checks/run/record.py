"""A run folder as the checks need it, finished or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from stillroom.diagnose.check import Skip
from stillroom.errors import BadInput
from stillroom.losses.registry import is_custom, loss_class
from stillroom.recipe import Recipe
from stillroom.run.records import load_run_recipe
from stillroom.schema.base import read_jsonl, read_optional
from stillroom.schema.predictions import (
    PREDICTIONS,
    ImageScores,
    Predictions,
    margin_of_counts,
    paired_margin,
    read_predictions,
    score_images,
)
from stillroom.schema.run import (
    METRICS,
    RESCALING,
    SUMMARY,
    TIMING,
    WEIGHT_DISTANCE,
    DataQuality,
    MetricsLine,
    ModelScores,
    RescalingEpoch,
    RunSummary,
    WeightDistanceLine,
    read_timing,
)

# The figures of a line of metrics, by name.
Row = dict[str, float]


@dataclass(frozen=True)
class TeacherGap:
    """How far the student is below its teacher in top-1, in points, and half the 95% interval over the test images."""

    points: float
    margin: float

    @property
    def is_significant(self) -> bool:
        """Whether the student is below by more than another draw of test images would explain."""
        return self.points > self.margin

    @property
    def is_large(self) -> bool:
        """Whether it is more than twice what another draw of test images would explain."""
        return self.points > 2 * self.margin

    @property
    def is_above(self) -> bool:
        """Whether the student is above by more than another draw would explain."""
        return -self.points > self.margin

    def __str__(self) -> str:
        return f"{abs(self.points):.1f} ± {self.margin:.1f} points"


@dataclass(frozen=True)
class RunRecord:
    """One run as its folder has it.

    Attributes:
        path: the folder.
        recipe: the resolved recipe.
        finished: whether it was trained to its end.
        train: the lines of training, in order of steps, numbers alone.
        test: the lines of evaluation.
        student: the student's scores; None of a run that did not end.
        teacher: the teacher's scores, of several the most accurate one's; None where there is none, or where its logits
            are not known.
        is_distilled: whether a term of the loss reads the teacher.
        classes: number of classes; None of a run that did not end.
        side: side of the images in pixels, where they are images.
        predictions: the logits of both for the test images.
        rescaling: the lines about gradient rescaling.
        weight_distance: the lines about how far weights moved.
        events: the names of the events in ``timing.jsonl``.
        quality: copies among the images, sizes of the classes; None of a run that did not end.
    """

    path: Path
    recipe: Recipe
    finished: bool
    train: tuple[Row, ...]
    test: tuple[Row, ...]
    student: ModelScores | None
    teacher: ModelScores | None
    is_distilled: bool
    classes: int | None
    side: int | None
    predictions: Predictions | None
    rescaling: tuple[RescalingEpoch, ...]
    weight_distance: tuple[WeightDistanceLine, ...]
    events: tuple[str, ...]
    quality: DataQuality | None = None

    @property
    def steps(self) -> int:
        """Optimizer steps that were logged."""
        return max((int(row["step"]) for row in (*self.train, *self.test)), default=0)

    @cached_property
    def steps_per_epoch(self) -> int | None:
        """Optimizer steps of an epoch; None where nothing was logged."""
        row = next((row for row in (*self.train, *self.test) if row["epoch"] > 0), None)
        return None if row is None else max(round(row["step"] / row["epoch"]), 1)

    @property
    def planned(self) -> int | None:
        """Optimizer steps that the recipe asks for; None where nothing was logged."""
        training = self.recipe.training
        if training.steps is not None:
            return training.steps
        return None if self.steps_per_epoch is None else training.total_steps(self.steps_per_epoch)

    @property
    def epochs(self) -> float:
        """Passes over the training images that were logged."""
        return max((float(row["epoch"]) for row in (*self.train, *self.test)), default=0.0)

    @property
    def peak_rate(self) -> float | None:
        """The largest learning rate that was logged."""
        return max((row.get("lr", 0.0) for row in self.train), default=None)

    @cached_property
    def weights(self) -> dict[str, float]:
        """The weight of each term, the largest where it follows a schedule."""
        return {term.name: term.largest_weight for term in self.recipe.losses}

    def part(self, part: Literal["labels", "teacher"]) -> str | None:
        """The name of the term that is cross-entropy (labels) or the divergence from the teacher; None without one."""
        found = (term.name for term in self.recipe.losses if loss_class(term).rescaling_part == part)
        return next(found, None)

    @cached_property
    def teacher_losses(self) -> tuple[str, ...]:
        """The terms that read the teacher."""
        built_in = [term.name for term in self.recipe.losses if loss_class(term).requires.teacher]
        own = [term.name for term in self.recipe.losses if is_custom(term)]
        # A user's own term may read either: where the run was distilled and nothing else does it, these do.
        return tuple(built_in + (own if self.is_distilled and not built_in else []))

    @cached_property
    def label_losses(self) -> tuple[str, ...]:
        """The terms that read labels alone."""
        return tuple(name for name in self.weights if name not in self.teacher_losses)

    @cached_property
    def gap(self) -> TeacherGap | None:
        """How far the student is below its teacher; None without a teacher, or before the end."""
        if self.student is None or self.teacher is None:
            return None
        points = self.teacher.top1 - self.student.top1
        if self.student_answers is not None and self.teacher_answers is not None:
            return TeacherGap(points, paired_margin(self.teacher_answers.right, self.student_answers.right))
        return TeacherGap(points, margin_of_counts(self.teacher.top1, self.student.top1, self.student.count))

    @cached_property
    def student_answers(self) -> ImageScores | None:
        """The student's prediction for each test image."""
        found = self.predictions
        return None if found is None else score_images(found.student_logits, found.labels)

    @cached_property
    def teacher_answers(self) -> ImageScores | None:
        """The teacher's prediction for each test image."""
        found = self.predictions
        return (
            None if found is None or found.teacher_logits is None else score_images(found.teacher_logits, found.labels)
        )

    def loss(self, row: Row, terms: Sequence[str] | None = None) -> float | None:
        """The weighted loss of a line of training, of all terms or of some, each by its largest weight.

        So a weight that follows a schedule moves no loss by itself.
        """
        pairs = [(self.weights[name], row.get(f"loss/{name}")) for name in (self.weights if terms is None else terms)]
        values = [weight * value for weight, value in pairs if value is not None]
        return float(sum(values)) if values else None

    @cached_property
    def losses(self) -> list[float]:
        """The weighted loss of each line of training that has one."""
        return [loss for row in self.train if (loss := self.loss(row)) is not None]


def read_run(path: Path) -> RunRecord:
    """Read a run folder.

    Args:
        path: the folder, of a run that ended or of one that did not.

    Raises:
        BadInput: the folder is missing, is not a run's, or a file in it is damaged.
    """
    if not path.is_dir():
        raise BadInput("run", str(path), "a run folder" if path.exists() else "a folder that exists")
    if not (path / "recipe.yaml").is_file():
        raise BadInput("run", str(path), "a run folder, with recipe.yaml")
    recipe = load_run_recipe(path)
    summary = read_optional(RunSummary, path / SUMMARY)
    finished = summary is not None
    if finished and not (path / METRICS).is_file():
        raise BadInput("run", str(path / METRICS), "the metrics of a finished run")
    # A killed run may leave half a line at the end of its logs.
    metrics = read_jsonl(MetricsLine, path / METRICS, skip_damaged=not finished)
    rows = [(line.split, {"step": line.step, "epoch": line.epoch, **line.figures}) for line in metrics]
    is_distilled = any(is_custom(term) or loss_class(term).requires.teacher for term in recipe.losses)
    predictions = None
    if summary is not None and (path / PREDICTIONS).is_file():
        predictions = read_predictions(
            path / PREDICTIONS, count=summary.count, classes=summary.data.classes, reference=summary.reference
        )
    return RunRecord(
        path=path,
        recipe=recipe,
        finished=finished,
        train=tuple(row for split, row in rows if split == "train"),
        test=tuple(row for split, row in rows if split == "test"),
        student=summary.student if summary is not None else None,
        teacher=summary.teacher.scores if summary is not None and summary.teacher is not None else None,
        is_distilled=summary.distilled if summary is not None else is_distilled,
        classes=summary.data.classes if summary is not None else None,
        side=min(summary.data.shape[1:]) if summary is not None and len(summary.data.shape) == 3 else None,
        predictions=predictions,
        rescaling=tuple(read_jsonl(RescalingEpoch, path / RESCALING, skip_damaged=not finished)),
        weight_distance=tuple(read_jsonl(WeightDistanceLine, path / WEIGHT_DISTANCE, skip_damaged=not finished)),
        events=tuple(event.event for event in read_timing(path / TIMING)),
        quality=summary.data.quality if summary is not None else None,
    )


def require_quality(run: RunRecord) -> DataQuality:
    """What the run's summary says of its data.

    Raises:
        Skip: it did not end, or says nothing of it.
    """
    if run.quality is None:
        raise Skip("The run did not end." if not run.finished else "The run's summary does not say.")
    return run.quality
