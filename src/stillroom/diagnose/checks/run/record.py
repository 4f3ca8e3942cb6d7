"""A run folder as the checks need it, finished or not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

from stillroom.diagnose.check import Skip
from stillroom.errors import BadInput
from stillroom.losses.registry import is_custom, loss_class
from stillroom.recipe import Recipe
from stillroom.run.records import load_run_recipe
from stillroom.schema.base import read_jsonl, read_optional
from stillroom.schema.measures import MultiLabelMeasures, RegressionMeasures
from stillroom.schema.predictions import (
    ImageScores,
    Predictions,
    margin_of_counts,
    paired_margin,
    read_run_predictions,
    score_images,
)
from stillroom.schema.run import (
    METRICS,
    RESCALING,
    SUMMARY,
    TIMING,
    WEIGHT_DISTANCE,
    BatchNormSummary,
    DataQuality,
    LossSummary,
    MetricsLine,
    ModelScores,
    RescalingEpoch,
    RunSummary,
    TeacherSummary,
    WeightDistanceLine,
    read_timing,
)
from stillroom.tasks import Task
from stillroom.wording import IMAGES, TEXTS, Unit

# Student's t at 95% by the number of runs, of the spread of that many.
_T95 = {2: 12.7, 3: 4.3, 4: 3.2, 5: 2.8}
# Share of a term's largest weight at the end from which on it still counts.
_FADED = 0.1
# The figures of a line of metrics, by name; losses by the term's key in the recipe.
Row = dict[str, float]


@dataclass(frozen=True)
class TeacherGap:
    """How far the student is below another model in top-1, in points, and half the 95% interval of that."""

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
    """One run as its folder has it."""

    path: Path  # the folder
    recipe: Recipe  # the resolved recipe
    finished: bool  # whether it was trained to its end
    train: tuple[Row, ...]  # the lines of training, in order of steps, numbers alone
    test: tuple[Row, ...]  # the lines of evaluation
    student: ModelScores | None  # the student's scores; None of a run that did not end
    # The teacher's scores, of several the most accurate one's; None where there is none, it changes with the student,
    # or its logits are not known.
    teacher: ModelScores | None
    is_distilled: bool  # whether a term of the loss reads the teacher
    classes: int | None  # number of classes; None of a run that did not end
    side: int | None  # side of the images in pixels, where they are images
    predictions: Predictions | None  # the logits of both for the test images
    rescaling: tuple[RescalingEpoch, ...]  # the lines about gradient rescaling
    weight_distance: tuple[WeightDistanceLine, ...]  # the lines about how far weights moved
    events: tuple[str, ...]  # the names of the events in ``timing.jsonl``
    # What each term of the loss reads, in the recipe's order; empty of a run that did not end.
    terms: tuple[LossSummary, ...] = ()
    # What a run must share with it to be the same student on the same images for as many steps: model, parameters,
    # fingerprint of the data, hash of the budget; None of a run that did not end.
    identity: tuple[str, int, str, str] | None = None
    baselines: tuple[RunRecord, ...] = ()  # the same student trained on labels alone, of a distilled run
    task: Task = "single_label"  # what the labels are; top-1 and classes are of single-label data alone
    # The teacher's measures of multi-label or regression data.
    teacher_measures: MultiLabelMeasures | RegressionMeasures | None = None
    quality: DataQuality | None = None  # copies among the images, sizes of the classes; None of a run that did not end
    unit: Unit = IMAGES  # what a sample of the data is called
    batch_norm: BatchNormSummary | None = None  # where few batches went into the running statistics

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
        """The weight of each term by its key in the recipe, the largest where it follows a schedule."""
        return {term.key: term.largest_weight for term in self.recipe.losses}

    @cached_property
    def lasting(self) -> tuple[str, ...]:
        """The terms whose weight does not fade: nothing holds the others' value down in the end."""
        kept = [term.key for term in self.recipe.losses if term.weight_at(1.0) > _FADED * term.largest_weight]
        return tuple(kept or self.weights)

    def part(self, part: Literal["labels", "teacher"]) -> str | None:
        """The key of the term that is cross-entropy (labels) or the divergence from the teacher; None without one."""
        found = (term.key for term in self.recipe.losses if loss_class(term).rescaling_part == part)
        return next(found, None)

    @cached_property
    def teacher_losses(self) -> tuple[str, ...]:
        """The terms that read the teacher."""
        if self.terms:
            return tuple(key for key, term in zip(self.weights, self.terms, strict=True) if term.reads_teacher)
        built_in = [term.key for term in self.recipe.losses if loss_class(term).requires.teacher]
        own = [term.key for term in self.recipe.losses if is_custom(term)]
        # A run that did not end has not written what its terms read. A user's own term may read either: where the run
        # was distilled and nothing else does it, these do.
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
    def labels_gap(self) -> TeacherGap | None:
        """How far the student is below the same student from labels alone; None without such a run.

        The margin holds what another draw of test images would change, and another seed: from the spread of several
        runs from labels, and of a single one as much again.
        """
        if self.student is None or not self.baselines:
            return None
        levels, images = [], []
        for one in self.baselines:
            assert one.student is not None
            levels.append(one.student.top1)
            both = (one.student_answers, self.student_answers)
            if both[0] is not None and both[1] is not None and len(both[0].right) == len(both[1].right):
                images.append(paired_margin(both[0].right, both[1].right))
            else:
                images.append(margin_of_counts(one.student.top1, self.student.top1, self.student.count))
        count, margin = len(levels), max(images)
        margin = (
            2 * margin
            if count == 1
            else math.hypot(margin, _T95[min(count, 5)] * stdev(levels) * (1 + 1 / count) ** 0.5)
        )
        return TeacherGap(fmean(levels) - self.student.top1, margin)

    @cached_property
    def student_answers(self) -> ImageScores | None:
        """The student's prediction for each test image."""
        found = self.predictions
        if found is None or found.task != "single_label":
            return None
        return score_images(found.student_logits, found.labels)

    @cached_property
    def teacher_answers(self) -> ImageScores | None:
        """The teacher's prediction for each test image."""
        found = self.predictions
        return (
            None
            if found is None or found.teacher_logits is None or self.teacher is None
            else score_images(found.teacher_logits, found.labels)
        )

    def loss(self, row: Row, terms: Sequence[str] | None = None) -> float | None:
        """The weighted loss of a line of training, of all terms or of some, each by its largest weight.

        So a weight that follows a schedule moves no loss by itself.
        """
        names = self.lasting if terms is None else terms
        pairs = [(self.weights[name], row.get(f"loss/{name}")) for name in names]
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
    keys = _logged_keys(recipe, metrics)
    rows = [
        (line.split, {"step": line.step, "epoch": line.epoch, **{keys.get(k, k): v for k, v in line.figures.items()}})
        for line in metrics
    ]
    is_distilled = any(is_custom(term) or loss_class(term).requires.teacher for term in recipe.losses)
    teacher = None if summary is None else _fixed_teacher(summary, recipe)
    return RunRecord(
        path=path,
        recipe=recipe,
        finished=finished,
        train=tuple(row for split, row in rows if split == "train"),
        test=tuple(row for split, row in rows if split == "test"),
        student=summary.student if summary is not None and summary.task == "single_label" else None,
        teacher=teacher.scores if teacher is not None else None,
        is_distilled=summary.distilled if summary is not None else is_distilled,
        classes=summary.data.classes if summary is not None else None,
        side=min(summary.data.shape[1:]) if summary is not None and len(summary.data.shape) == 3 else None,
        predictions=read_run_predictions(path, summary) if summary is not None else None,
        rescaling=tuple(read_jsonl(RescalingEpoch, path / RESCALING, skip_damaged=not finished)),
        weight_distance=tuple(read_jsonl(WeightDistanceLine, path / WEIGHT_DISTANCE, skip_damaged=not finished)),
        events=tuple(event.event for event in read_timing(path / TIMING)),
        terms=summary.losses if summary is not None and len(summary.losses) == len(recipe.losses) else (),
        quality=summary.data.quality if summary is not None else None,
        unit=TEXTS if recipe.data.source == "text" or (summary is not None and summary.data.vocabulary) else IMAGES,
        batch_norm=summary.batch_norm if summary is not None else None,
        identity=_identity(summary) if summary is not None else None,
        task=recipe.data.task or "single_label",
        teacher_measures=teacher.measures if teacher is not None else None,
    )


def _fixed_teacher(summary: RunSummary, recipe: Recipe) -> TeacherSummary | None:
    """The teacher that is compared with; None of one that changes: it is as good as the student."""
    config = recipe.all_teachers.get(summary.reference or "")
    return None if config is not None and config.changes else summary.teacher


def _identity(summary: RunSummary) -> tuple[str, int, str, str]:
    return summary.model, summary.parameters, summary.data.fingerprint, summary.hashes.budget


def _logged_keys(recipe: Recipe, metrics: Sequence[MetricsLine]) -> dict[str, str]:
    """For the name of each loss in the metrics, the one by the term's key: a user's own loss is logged as it is called.

    A line of training holds the terms in the recipe's order.
    """
    for line in metrics:
        names = [name for name in line.model_extra or {} if name.startswith("loss/")]
        if len(names) == len(recipe.losses):
            return {name: f"loss/{term.key}" for name, term in zip(names, recipe.losses, strict=True)}
    return {}


def require_quality(run: RunRecord) -> DataQuality:
    """What the run's summary says of its data; Skip where it did not end, or says nothing of it."""
    if run.quality is None:
        raise Skip("The run did not end." if not run.finished else "The run's summary does not say.")
    return run.quality
