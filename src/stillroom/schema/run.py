"""What a run writes: summary.json, its logs, environment.json, class_relations.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator

from stillroom.errors import BadInput
from stillroom.schema.base import (
    Correlation,
    Count,
    Items,
    JsonFile,
    JsonObject,
    NonNegative,
    Percent,
    PositiveCount,
    Share,
    is_finite,
    read_jsonl,
)
from stillroom.schema.continual import IncrementalSummary
from stillroom.schema.measures import TargetMeasures
from stillroom.tasks import TASK_INFO, Task

SUMMARY = "summary.json"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"
RELATIONS, RELATION_EPOCHS = "class_relations.json", "class_relations.jsonl"
RESCALING = "gradient_rescaling.jsonl"
WEIGHT_DISTANCE = "weight_distance.jsonl"

# A run writes no larger maps of cosines, and a page of larger ones would not open.
MOST_MAPPED_CLASSES = 200
# How much two cosines that are equal but for rounding to four decimals may differ.
_ROUNDED = 1.5e-4
_MOST_GROUPS = 1000

Score = Annotated[float, Field(ge=-2, le=2)]


def check_finished(run: Path) -> None:
    """Refuse what is not the folder of a finished run.

    Raises:
        BadInput: it is missing, a study's, another folder, or that of an unfinished run.
    """
    if not run.is_dir():
        raise BadInput("run", str(run), "a run folder" if run.exists() else "a folder that exists")
    if (run / SUMMARY).is_file():
        return
    if any((run / name).exists() for name in ("study.yaml", "progress.json")):
        raise BadInput("run", str(run), "the folder of one run; this is a study's, with its runs in runs/")
    begun = any((run / name).exists() for name in ("recipe.yaml", METRICS, "state"))
    raise BadInput(
        "run",
        str(run),
        "a finished run; the command that began this one, with --out, goes on with it"
        if begun
        else f"a run folder, with {SUMMARY}",
    )


class ModelScores(JsonObject):
    """A model on the test split, and its size.

    ``top1``, ``top5``, ``agreement`` in per cent; ``nll``, ``teacher_kl`` in nats; ``ece`` from 0 to 1; ``bytes`` of
    the weights on disk.
    """

    model: str
    top1: Percent
    correct: Count
    count: PositiveCount
    top5: Percent | None = None
    nll: NonNegative
    ece: Share
    agreement: Percent | None = None
    teacher_kl: float | None = None
    parameters: Count | None = None
    multiply_adds: Count | None = None
    bytes: Count | None = None


class TeacherSummary(JsonObject):
    """A teacher in a run's summary; without scores where it has no test logits.

    ``agreement`` and ``teacher_kl`` are here where there are several teachers, else in the summary itself.
    """

    model: str
    top1: Percent | None = None
    correct: Count | None = None
    count: PositiveCount | None = None
    top5: Percent | None = None
    nll: NonNegative | None = None
    ece: Share | None = None
    parameters: Count | None = None
    multiply_adds: Count | None = None
    bytes: Count | None = None
    weights_hash: str
    # Of the student's moving average or snapshot: it is no other model to compare the student with.
    follows_student: Literal[True] | None = None
    # Of a second student, which learned while it taught this one.
    peer: Literal[True] | None = None
    files: dict[str, str] | None = None  # SHA-256 of each file that its logits were read from, where it is no model
    measures: TargetMeasures | None = None  # of multi-label or regression data, in place of top1, nll and ece
    agreement: Percent | None = None
    teacher_kl: float | None = None
    teacher_mae: NonNegative | None = None

    @property
    def scores(self) -> ModelScores | None:
        """Its scores; None where it was not scored, or not by classes of which each image has one."""
        if self.top1 is None:
            return None
        others = {"weights_hash", "follows_student", "peer", "files", "measures", "teacher_mae"}
        return ModelScores.model_validate(self.model_dump(exclude=others))

    @model_validator(mode="after")
    def _check(self) -> TeacherSummary:
        held = {"top1": self.top1, "correct": self.correct, "count": self.count, "nll": self.nll, "ece": self.ece}
        if self.measures is not None:
            held = {"count": self.count}
        missing = [name for name, value in held.items() if value is None]
        if 0 < len(missing) < len(held):
            raise BadInput(missing[0], None, "a number, as other scores of the teacher are there")
        if self.correct is not None and self.count is not None and self.correct > self.count:
            raise BadInput("correct", self.correct, f"at most count, {self.count}")
        return self


# Share of the test images that were trained on. Each of them may be right by heart: .5% is less than two runs of one
# recipe differ by, 5% is more than most methods gain.
LEAK_WARNING, LEAK_PROBLEM = 0.005, 0.05
# Share of the training images that are copies of others: as if the epoch were so much shorter.
COPIES_WARNING = 0.05
# Images of the largest class to one of the smallest: from 10 on, small classes lose accuracy (arXiv 1710.05381).
IMBALANCE_WARNING, IMBALANCE_PROBLEM = 10.0, 100.0


class DataQuality(JsonObject):
    """Copies of images within and between two splits, and the sizes of the classes.

    Two images are copies where their pixels are equal; of large data that are read from files on demand
    (``by_pixels`` is false), where their files are, their metadata aside.
    """

    train: PositiveCount = Field(description="Training images.")
    test: PositiveCount = Field(description="Test images.")
    shared: Count = Field(description="Test images that are training images, too.")
    shared_relabelled: Count = Field(description="Those of them with another label than each training image like them.")
    copies: Count = Field(description="Training images that are copies of an earlier one.")
    copies_relabelled: Count = Field(description="Those of them with another label than the earlier one.")
    largest: Count = Field(description="Training images of the largest class; 0 where none has a label.")
    smallest: Count = Field(description="Training images of the smallest class that has any.")
    largest_class: str = Field(description="Name of the largest class.")
    smallest_class: str = Field(description="Name of the smallest class that has any.")
    empty_classes: Count = Field(description="Classes without a training image.")
    unlabelled: Count = Field(0, description="Training images without a label, which belong to no class here.")
    by_pixels: bool = Field(description="Whether pixels were compared, not files without their metadata.")

    @property
    def leak(self) -> float:
        """Share of the test images that are training images, too."""
        return self.shared / self.test

    @property
    def copied(self) -> float:
        """Share of the training images that are copies of an earlier one."""
        return self.copies / self.train

    @property
    def imbalance(self) -> float:
        """Training images of the largest class to one of the smallest."""
        return self.largest / self.smallest if self.smallest else 1.0

    def leak_words(self) -> str:
        """How many test images are training images."""
        if self.shared == self.test:
            return f"all {self.test:,} test $images are training $images, too: the accuracy is that of training"
        times = f", {self.shared_relabelled:,} of them with another label" if self.shared_relabelled else ""
        return f"{self.shared:,} of {self.test:,} test $images are training $images, too{times}"

    def copies_words(self) -> str:
        """How many training images are there twice."""
        times = f", {self.copies_relabelled:,} of them with another label" if self.copies_relabelled else ""
        return f"{self.copies:,} of {self.train:,} training $images are copies of others{times}"

    def imbalance_words(self) -> str:
        """How unequal the classes are."""
        if not self.largest:
            return "no training $image has a label"
        if self.largest == self.smallest:
            return f"each class has {self.largest:,} training $images"
        words = f"{self.largest:,} training $images of {self.largest_class!r}, {self.smallest:,} of "
        return f"{words}{self.smallest_class!r}: {self.imbalance:.0f} to 1"

    def warnings(self) -> list[str]:
        """What to say before training: a line each for a leak, copies and imbalance."""
        lines = []
        if self.leak >= LEAK_WARNING:
            lines.append(self.leak_words())
        if self.copied >= COPIES_WARNING:
            lines.append(self.copies_words())
        if self.imbalance >= IMBALANCE_WARNING:
            lines.append(self.imbalance_words())
        return lines


class DataSummary(JsonObject):
    """The data of a run: images of each split, their shape [C, H, W]; the files of each that could not be decoded."""

    name: str
    task: Task | None = None  # where the labels are not one class an image
    classes: PositiveCount  # or targets: outputs of a model
    train: PositiveCount
    # Training images with a label, where some have none.
    labelled: Count | None = None
    validation: PositiveCount | None = None  # where `data.validation` says so
    test: PositiveCount
    shape: Items[int] = ()
    pixels: bool | None = None
    # Of floats, where they are not float32.
    dtype: Literal["float16", "bfloat16", "float64", "int32"] | None = None
    # Of texts: the number that token ids are below.
    vocabulary: PositiveCount | None = None
    fingerprint: str
    skipped: dict[str, Items[str]] | None = None
    quality: DataQuality | None = None


class RelationFigures(JsonObject):
    """How the student's last layer relates the classes; ``why`` gives the reason for each figure that is None."""

    score: Score | None = None
    truth: Correlation | None = None
    teacher: Correlation | None = None
    why: dict[str, str] = Field(default_factory=dict)


class RunHashes(JsonObject):
    """SHA-256 hashes that prove what runs had in common."""

    init: str
    order: str
    views: str
    budget: str
    threads: str

    @property
    def by_name(self) -> dict[str, str]:
        """The hashes by their names."""
        return self.model_dump()


class LossSummary(JsonObject):
    """A term of the loss: the name that metrics log it by, and what it read."""

    name: str
    reads_teacher: bool
    reads_labels: bool


def _level(teacher: TeacherSummary) -> float | None:
    """What ranks teachers: top-1, or the measure of the run's task."""
    if teacher.measures is None:
        return teacher.top1
    return float(getattr(teacher.measures, TASK_INFO[teacher.measures.task].primary.name))


class TrainedPartSummary(JsonObject):
    """The part of the student that was trained; the rest was frozen."""

    modules: Items[str]
    parameters: Count
    of: Count


class BatchNormSummary(JsonObject):
    """Running statistics that began with a mean of 0 and a variance of 1."""

    momentum: float = Field(description="The smallest of the student's batch norms.")
    batches: Count = Field(description="Training batches that went into them.")


PLAN = "plan.json"


class RunPlan(JsonFile):
    """``plan.json`` of `stillroom distill --data`: the epochs that fit into the minutes, and how long all takes."""

    teacher_epochs: Count
    student_epochs: PositiveCount
    seconds: NonNegative


class StoppedEarly(JsonObject):
    """That a run ended after some of its epochs, as its measure on the validation images did not get better."""

    after: NonNegative  # epochs
    of: NonNegative
    patience: PositiveCount  # evaluations without a better one
    measure: str
    best: float


class RunSummary(JsonFile):
    """``summary.json``: what a finished run came to. Units as in :class:`ModelScores`."""

    name: str
    recipe_hash: str
    seed: int
    steps: Count
    epochs: NonNegative
    top1: Percent | None = None
    correct: Count | None = None
    count: PositiveCount
    top5: Percent | None = None
    nll: NonNegative | None = None
    ece: Share | None = None
    measures: TargetMeasures | None = Field(
        None, description="Of multi-label or regression data, in place of top1, correct, nll and ece."
    )
    agreement: Percent | None = None
    teacher_kl: float | None = None
    teacher_mae: NonNegative | None = None
    model: str
    parameters: Count
    multiply_adds: Count
    bytes: Count
    teachers: dict[str, TeacherSummary]
    distilled: bool = Field(description="Whether a loss read a teacher; else teachers are only compared with.")
    losses: Items[LossSummary] = Field((), description="What each term of the loss read, in the recipe's order.")
    data: DataSummary
    relations: RelationFigures | None = None
    custom: dict[str, str] | None = Field(None, description="Classes of the user's own optimizer and scheduler.")
    stopped: StoppedEarly | None = Field(None, description="Where `training.patience` ended it before its last epoch.")
    trained: TrainedPartSummary | None = Field(None, description="Where `training.train_only` trained a part alone.")
    batch_norm: BatchNormSummary | None = Field(
        None, description="Where so few batches went into the running statistics that they hold their starting values."
    )
    device: str
    precision: str
    threads: PositiveCount
    processes: PositiveCount
    accumulate: PositiveCount
    incremental: IncrementalSummary | None = None
    hashes: RunHashes

    @property
    def reference(self) -> str | None:
        """The name of the teacher that pages and checks compare with: the only one, or of several the most accurate.

        None where there is none, or where none of several has scores.
        """
        return self.reference_of(self.teachers)

    def reference_of(self, names: Iterable[str]) -> str | None:
        """The like of :attr:`reference` among some of the teachers."""
        names = list(names)
        if len(names) == 1:
            return names[0]
        scored = {name: level for name in names if (level := _level(self.teachers[name])) is not None}
        return max(scored, key=lambda name: scored[name], default=None)

    @property
    def task(self) -> Task:
        """What the labels are."""
        return "single_label" if self.measures is None else self.measures.task

    def require_single_label(self, what: str) -> None:
        """Go on only with a run of single-label data.

        Raises:
            BadInput: its labels are others; ``what`` says who needs these.
        """
        if self.task != "single_label":
            raise BadInput("run", f"{self.name} ({self.task})", f"a run of single-label data: {what}")

    @property
    def teacher(self) -> TeacherSummary | None:
        """The teacher of that name."""
        return None if self.reference is None else self.teachers[self.reference]

    @property
    def student(self) -> ModelScores:
        """The student's scores and size; BadInput of a run whose images have no one class each."""
        self.require_single_label("top-1 is asked for")
        return ModelScores.model_validate({name: getattr(self, name) for name in ModelScores.model_fields})

    @model_validator(mode="after")
    def _check(self) -> RunSummary:
        if self.measures is None:
            held = {"top1": self.top1, "correct": self.correct, "nll": self.nll, "ece": self.ece}
            for name, value in held.items():
                if value is None:
                    raise BadInput(name, None, "a number")
        if self.correct is not None and self.correct > self.count:
            raise BadInput("correct", self.correct, f"at most count, {self.count}")
        return self


class MetricsLine(JsonObject):
    """A line of ``metrics.jsonl``: means since the last line of training, or an evaluation on the test split.

    With ``data.validation`` evaluations along the way are on the validation images.

    Further fields are figures by name: ``loss``, ``loss/NAME``, ``lr``, ``top1``, ``nll`` …
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=True)

    step: Count
    epoch: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    split: Literal["train", "validation", "test"]

    @property
    def figures(self) -> dict[str, float]:
        """The figures that are finite numbers."""
        return {key: value for key, value in (self.__pydantic_extra__ or {}).items() if is_finite(value)}


class TimingEvent(JsonObject):
    """A line of ``timing.jsonl``: what happened, and what of time, memory and teacher passes it took.

    ``progress`` has seconds since the start, images_per_second, peak_memory_mb; ``evaluation`` and ``compile`` seconds;
    ``cache`` images asked of the teacher, seconds, bytes; ``teacher`` answers given live; ``latency`` milliseconds by
    batch size, and of texts by tokens at batch 1; ``out_of_memory`` parts; ``resume``, ``task`` and ``finish`` only
    where; ``phases`` seconds of this process, in all and by what they went to.
    """

    event: str
    task: Count | None = None
    key: str | None = None
    views: Count | None = None
    images: Count | None = None
    step: Count | None = None
    parts: Count | None = None
    seconds: float | None = None
    bytes: Count | None = None
    images_per_second: float | None = None
    peak_memory_mb: float | None = None
    answers: Count | None = None
    checks: Count | None = None
    who: str | None = None
    milliseconds: dict[str, float] | None = None
    by_tokens: dict[str, float] | None = None
    threads: Count | None = None
    phases: dict[str, float] | None = None


def read_timing(path: Path) -> list[TimingEvent]:
    """The events of ``timing.jsonl``; half lines, as a killed run leaves them, are left out."""
    return read_jsonl(TimingEvent, path, skip_damaged=True)


class Environment(JsonObject):
    """``environment.json``: the machine and the versions of packages, which are further fields."""

    model_config = ConfigDict(extra="allow")

    python: str | None = None
    platform: str | None = None
    processor: str | None = None
    device: str | None = None
    cores: PositiveCount | None = None
    stillroom: str | None = None
    torch: str | None = None


class WeightDistanceLine(JsonObject):
    """A line of ``weight_distance.jsonl``: the distance of each recorded layer, Σ‖w_k − w_{k−1}‖/‖w_0‖ over steps."""

    step: Count
    epoch: NonNegative
    distance: dict[str, float]


class OmegaGroup(JsonObject):
    """ω over a tenth of an epoch's samples, grouped by the teacher's p_y or by the true margin of the label."""

    margin_low: float | None = None
    margin_high: float | None = None
    margin_mean: float | None = None
    p_low: float | None = None
    p_high: float | None = None
    p_mean: float
    omega_mean: float
    omega_median: float
    omega_low: float | None = None
    omega_high: float | None = None
    omega_std: float
    count: PositiveCount

    @property
    def by_margin(self) -> bool:
        """Whether the samples are grouped by their margin, else by p_y."""
        return self.margin_mean is not None

    @property
    def at(self) -> float:
        """The mean of what the samples are grouped by."""
        return self.p_mean if self.margin_mean is None else self.margin_mean

    @property
    def low(self) -> float:
        """The smallest of what the samples are grouped by."""
        return cast(float, self.margin_low if self.by_margin else self.p_low)

    @property
    def high(self) -> float:
        """The largest of what the samples are grouped by."""
        return cast(float, self.margin_high if self.by_margin else self.p_high)

    @property
    def quartiles(self) -> tuple[float, float] | None:
        """The quartiles of ω, where they were recorded."""
        return None if self.omega_low is None or self.omega_high is None else (self.omega_low, self.omega_high)

    @model_validator(mode="after")
    def _check(self) -> OmegaGroup:
        names = ("margin_low", "margin_high") if self.by_margin else ("p_low", "p_high")
        for name in names:
            if getattr(self, name) is None:
                raise BadInput(name, None, "a number")
        return self


class RescalingEpoch(JsonObject):
    """A line of the log of gradient rescaling: ω of each sample over an epoch, the hardest group first.

    ``loss`` names the loss that reads the teacher, ``target`` what it makes of the teacher's answer, where it makes
    something. ``spearman`` is the rank correlation of ω with the teacher's p_y, ``known_spearman`` with the true
    margin, ``saturated`` the share of samples of which the teacher says no more than the label.
    """

    step: Count
    epoch: NonNegative
    loss: str
    temperature: float
    target: str | None
    count: PositiveCount
    mean: float
    spearman: Correlation | None
    saturated: Share
    quantiles: dict[str, float]
    deciles: Annotated[Items[OmegaGroup], Field(min_length=1, max_length=_MOST_GROUPS)]
    known_spearman: Correlation | None = None
    known_deciles: Annotated[Items[OmegaGroup], Field(max_length=_MOST_GROUPS)] | None = None


class RelationScores(JsonObject):
    """The mean cosine within superclasses less that between them, of each map."""

    student: Score | None
    teacher: Score | None
    truth: Score | None


class RelationAgreement(JsonObject):
    """Pearson's correlation of the student's map with the true one and the teacher's, and of these two."""

    truth: Correlation | None
    teacher: Correlation | None
    teacher_truth: Correlation | None


class RelationMaps(JsonObject):
    """Cosines of each two classes, [K][K]."""

    student: Items[Items[float]]
    teacher: Items[Items[float]] | None
    truth: Items[Items[float]] | None


class RelationsRecord(JsonFile):
    """How the last layers of a run relate the classes, for student, teacher and truth.

    ``order`` is the order of classes in which maps show them. ``why`` gives the reason for each figure of the student
    that is None; ``has_teacher`` and ``has_truth`` say whether there is a teacher model and whether the true relations
    are known at all.
    """

    classes: PositiveCount
    class_names: Items[str]
    superclasses: Items[str] | None
    score: RelationScores
    agreement: RelationAgreement
    why: dict[str, str] = Field(default_factory=dict)
    has_teacher: bool
    has_truth: bool
    ordered_by: str | None = None
    order: Items[int] | None
    maps: RelationMaps | None

    @cached_property
    def cosines(self) -> Mapping[str, NDArray[np.float64]]:
        """The maps that are there, by whose they are, each [K, K]."""
        held = {} if self.maps is None else {name: getattr(self.maps, name) for name in RelationMaps.model_fields}
        return {name: np.array(rows, dtype=np.float64) for name, rows in held.items() if rows is not None}

    @model_validator(mode="after")
    def _check(self) -> RelationsRecord:
        for name in ("class_names", "superclasses"):
            found = getattr(self, name)
            if found is not None and len(found) != self.classes:
                raise BadInput(name, f"{len(found)} names", f"one for each of the {self.classes} classes")
        if self.maps is None:
            return self
        if self.classes > MOST_MAPPED_CLASSES:
            raise BadInput("maps", f"{self.classes} classes", f"none of more than {MOST_MAPPED_CLASSES} classes")
        if sorted(self.order or ()) != list(range(self.classes)):
            raise BadInput("order", self.order, f"each of the {self.classes} class numbers once")
        expected = f"{self.classes} rows of {self.classes} cosines, the same above the diagonal as below it"
        for name in RelationMaps.model_fields:
            rows = getattr(self.maps, name)
            if rows is not None and {len(rows), *map(len, rows)} != {self.classes}:
                raise BadInput(f"maps.{name}", f"{len(rows)} rows", expected)
        for name, cosines in self.cosines.items():
            if not bool((np.abs(cosines) <= 1).all() and (np.abs(cosines - cosines.T) <= _ROUNDED).all()):
                raise BadInput(f"maps.{name}", "what is no cosine", expected)
        return self


class RelationEpoch(JsonObject):
    """A line of the log of class relations: the figures of the student after an epoch."""

    step: Count = 0
    epoch: NonNegative
    score: Score | None = None
    truth: Correlation | None = None
    teacher: Correlation | None = None


# Lines of the other logs may hold what hooks of the user's own add.
LOG_MODELS: Mapping[str, type[JsonObject]] = {
    METRICS: MetricsLine,
    TIMING: TimingEvent,
    RELATION_EPOCHS: RelationEpoch,
}
