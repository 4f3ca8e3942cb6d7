"""A run folder as the checks need it, finished or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from stillroom.errors import BadInput
from stillroom.losses.registry import is_custom, loss_class
from stillroom.recipe import Recipe
from stillroom.report.fields import Fields, is_finite
from stillroom.run.records import load_run_recipe
from stillroom.schema.base import parse_object, read_text
from stillroom.schema.predictions import (
    PREDICTIONS,
    ImageScores,
    Predictions,
    margin_of_counts,
    paired_margin,
    read_predictions,
    score_images,
)

Row = dict[str, Any]


@dataclass(frozen=True)
class RunScores:
    """An evaluation of a model, in the units of ``summary.json``; None where it is not in there."""

    model: str
    top1: float
    count: int
    nll: float | None = None
    parameters: int | None = None


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
        teacher: the teacher's scores; None where there is none, or where its logits are not known.
        is_distilled: whether a term of the loss reads the teacher.
        classes: number of classes; None of a run that did not end.
        side: side of the images in pixels, where they are images.
        predictions: the logits of both for the test images.
        rescaling: the lines about gradient rescaling.
        weight_distance: the lines about how far weights moved.
        events: the lines of ``timing.jsonl``.
    """

    path: Path
    recipe: Recipe
    finished: bool
    train: tuple[Row, ...]
    test: tuple[Row, ...]
    student: RunScores | None
    teacher: RunScores | None
    is_distilled: bool
    classes: int | None
    side: int | None
    predictions: Predictions | None
    rescaling: tuple[Row, ...]
    weight_distance: tuple[Row, ...]
    events: tuple[Row, ...]

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
    finished = (path / "summary.json").is_file()
    train, test = _metrics(path / "metrics.jsonl", whole=finished)
    rescaling = tuple(_lines(path / "gradient_rescaling.jsonl", whole=finished))
    distance = tuple(_lines(path / "weight_distance.jsonl", whole=finished))
    # A killed run may leave half a line there; it does not change the result.
    events = tuple(_lines(path / "timing.jsonl", whole=False))
    is_distilled = any(is_custom(term) or loss_class(term).requires.teacher for term in recipe.losses)
    student = teacher = classes = side = predictions = None
    if finished:
        summary = Fields(path / "summary.json", parse_object(read_text(path / "summary.json"), path / "summary.json"))
        summary.one_of("schema", (1,))
        data = summary.inside("data")
        student, classes = _scores(summary), data.whole("classes", low=1)
        found = summary.inside("teachers").maybe_inside("teacher")
        # One that could not be evaluated on the test images has a name alone.
        teacher = _scores(found) if found is not None and "top1" in found.content else None
        shape = data.wholes("shape")
        side = min(shape[1:]) if len(shape) == 3 else None
        is_distilled = summary.flag("taught", is_distilled)
        if (path / PREDICTIONS).is_file():
            predictions = read_predictions(path / PREDICTIONS, count=student.count, classes=classes)
    return RunRecord(
        path=path,
        recipe=recipe,
        finished=finished,
        train=train,
        test=test,
        student=student,
        teacher=teacher,
        is_distilled=is_distilled,
        classes=classes,
        side=side,
        predictions=predictions,
        rescaling=rescaling,
        weight_distance=distance,
        events=events,
    )


def _scores(fields: Fields) -> RunScores:
    return RunScores(
        model=fields.text("model"),
        top1=fields.number("top1", low=0, high=100),
        count=fields.whole("count", low=1),
        nll=fields.maybe_number("nll", low=0),
        parameters=fields.maybe_whole("parameters"),
    )


def _lines(path: Path, *, whole: bool) -> list[Row]:
    """The objects of a log; where the run did not end, the last may have been cut short by what ended it."""
    if not path.is_file():
        return []
    text = read_text(path)
    rows, lines = [], text.split("\n")
    for number, line in enumerate(lines, start=1):
        if line.strip() and (whole or number < len(lines)):
            rows.append(parse_object(line, path, number))
    return rows


def _metrics(path: Path, *, whole: bool) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    if whole and not path.is_file():
        raise BadInput("run", str(path), "the metrics of a finished run")
    splits: dict[str, list[Row]] = {"train": [], "test": []}
    for number, row in enumerate(_lines(path, whole=whole), start=1):
        numbers = {key: value for key, value in row.items() if is_finite(value)}
        if row.get("split") not in splits or not {"step", "epoch"} <= numbers.keys():
            raise BadInput("run", str(path), f"a step, an epoch and a split, train or test, in line {number}")
        splits[row["split"]].append(numbers)
    return tuple(splits["train"]), tuple(splits["test"])
