"""What a study writes: its plan, progress, caches, calibration, trials, results, dissection and costs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from stillroom.config import bad_input
from stillroom.errors import BadInput
from stillroom.schema.base import (
    Count,
    Couple,
    Items,
    JsonFile,
    JsonObject,
    NonNegative,
    OptionalItems,
    Share,
    read_json,
    read_text,
)
from stillroom.schema.continual import PairTasks
from stillroom.schema.run import RunHashes

RESULTS = "results.json"
STUDY = "study.yaml"
DISSECTION = "dissection.json"
COST = "cost.csv"
PROGRESS = "progress.json"

# Further out, the distance of two places on an axis is no number any more.
_FAR = 1e150
SweepPosition = Annotated[int | float, Field(ge=-_FAR, le=_FAR)]
# Whole numbers stay whole when they are written again.
Number = int | float
# (pair, method)
CellKey = tuple[str, str]


class MeasureInfo(JsonObject):
    """What a study compares; ``digits`` are the decimals that are shown."""

    name: str
    title: str
    unit: str
    digits: Annotated[int, Field(ge=0, le=12)]
    higher_is_better: bool

    @property
    def heading(self) -> str:
        """The title at the start of a line; mAP stays so."""
        return self.title if self.title[1:2].isupper() else self.title[:1].upper() + self.title[1:]

    @property
    def label(self) -> str:
        """The title with its unit, for an axis or a column."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    @property
    def relation(self) -> str:
        """The field of the log of class relations that holds it; empty for other measures."""
        return self.name.removeprefix("relation_") if self.name.startswith("relation_") else ""

    @property
    def place(self) -> str:
        """Where it is measured."""
        return "last layer" if self.relation else "test split"

    @property
    def points(self) -> str:
        """The unit of a difference, with a space before it; empty where there is none."""
        unit = "points" if self.unit == "%" else self.unit
        return f" {unit}" if unit else ""


class RunLength(JsonObject):
    """The length of every run."""

    epochs: Number | None = None
    steps: int | None = None
    seconds: Number | None = None


class FieldDifference(JsonObject):
    """A field of the recipe in which a method differs from the baseline, and both values as short text."""

    key: str
    value: str
    baseline: str


class MethodInfo(JsonObject):
    """One way to train the student."""

    name: str
    note: str = ""
    differs: OptionalItems[FieldDifference] = ()


class PairInfo(JsonObject):
    """A teacher and a student on data: what all runs of the pair share. None where no run has finished."""

    name: str
    note: str = ""
    student: str
    teacher: str | None
    data: str | None
    classes: int | None
    train: int | None
    test: int | None
    teacher_top1: float | None
    teacher_parameters: int | None
    teacher_multiply_adds: int | None
    parameters: int | None
    multiply_adds: int | None
    steps: int | None
    epochs: float | None
    precision: str | None
    threads: int | None


class SweepMark(JsonObject):
    """A value on the axis of a sweep that plots mark with a line."""

    at: SweepPosition
    label: str = ""


class SweepInfo(JsonObject):
    """The one number that the pairs differ in, and its value for each pair."""

    field: str
    title: str
    log: bool
    marks: OptionalItems[SweepMark] = ()
    values: dict[str, SweepPosition]


class InequalityInfo(JsonObject):
    """Something other than the method in which runs differ; without a seed where it is of all of them."""

    what: str
    pair: str
    seed: int | None
    methods: Items[str]
    pairs: Items[str] = ()
    seeds: Items[int] = ()
    text: str


class MissingRun(JsonObject):
    """A run without a result, and why."""

    pair: str
    method: str
    seed: int
    reason: str
    status: Literal["failed", "unfinished", "waiting"] = "failed"


class RunResult(JsonObject):
    """A finished run; ``run`` is its folder's path from the study's. Units as in the run's summary."""

    pair: str
    method: str
    seed: int
    run: str
    top1: float | None = None
    correct: Count | None = None
    count: Count
    nll: float | None = None
    ece: float | None = None
    top5: float | None = None
    agreement: float | None = None
    teacher_kl: float | None = None
    map: float | None = None
    macro_f1: float | None = None
    micro_f1: float | None = None
    bce: float | None = None
    r2: float | None = None
    mae: float | None = None
    mse: float | None = None
    teacher_mae: float | None = None
    relation_score: float | None = None
    relation_truth: float | None = None
    relation_teacher: float | None = None
    average_incremental: float | None = None
    forgetting: float | None = None
    task_local: float | None = None
    old_only: float | None = None
    steps: Count
    epochs: float
    parameters: Count
    multiply_adds: Count
    bytes: Count
    hashes: RunHashes

    def value(self, measure: str) -> float | None:
        """Its figure for a measure; None where it has none."""
        found = getattr(self, measure, None)
        return float(found) if isinstance(found, int | float) else None

    @field_validator("run")
    @classmethod
    def _is_inside(cls, value: str) -> str:
        # The path becomes an address on the page.
        path = PurePosixPath(value)
        if path.is_absolute() or len(path.parts) < 2 or path.parts[0] != "runs" or ".." in path.parts:
            raise ValueError("a path within the study's folder, in runs/")
        return path.as_posix()


class CellResult(JsonObject):
    """A method on a pair over its seeds.

    There is no interval where ``why`` gives a reason, no mean where no run finished; ``equal`` is false where something
    other than the method differs.
    """

    pair: str
    method: str
    equal: bool = True
    count: Count
    mean: float | None
    low: float | None
    high: float | None
    sd: float | None = None
    why: str | None = None
    text: str = ""
    seeds: dict[str, float] = Field(default_factory=dict)


class DifferenceResult(JsonObject):
    """A paired difference over the seeds that both methods have; ``effect`` is Cohen's d_z with Hedges' correction."""

    mean: float
    low: float | None
    high: float | None
    p: Share | None = None
    count: Count
    sd: float | None = None
    effect: float | None = None


class SeedPlan(JsonObject):
    """How many seeds would decide a comparison: ``seeds``, None where more than ``cap`` or where ``why`` says so."""

    count: Count
    seeds: Count | None
    power: float
    alpha: float
    cap: Count
    why: str | None = None
    more: int | None = None


class ComparisonResult(JsonObject):
    """One method less another."""

    method: str
    against: str
    difference: DifferenceResult | None
    seeds: OptionalItems[int] = ()
    lacking: OptionalItems[int] = ()
    against_lacking: OptionalItems[int] = ()
    family: int | None = None
    alpha: float | None = None
    holm_p: Share | None
    family_low: float | None = None
    family_high: float | None = None
    verdict: Literal["higher", "lower", "undecided"]
    plan: SeedPlan | None = None
    equal: bool = True
    better: bool | None = None
    text: str = ""

    @property
    def mean(self) -> float | None:
        """The mean difference; None where they have no seed in common."""
        return None if self.difference is None else self.difference.mean

    @property
    def count(self) -> int:
        """The seeds that both have."""
        return 0 if self.difference is None else self.difference.count

    @property
    def seeds_needed(self) -> int | None:
        """The number of seeds that would decide it, where that is known."""
        return None if self.plan is None else self.plan.seeds


class ComparisonFamily(JsonObject):
    """Comparisons that are corrected together: each method with the baseline, or each with each."""

    kind: str
    baseline: str | None
    alpha: float
    comparisons: Items[ComparisonResult]
    text: str = ""


class PairFamilies(JsonObject):
    """Both families of a pair."""

    pair: str
    baseline: ComparisonFamily
    all: ComparisonFamily


class ContrastResult(JsonObject):
    """The mean of some methods less the mean of others, on a pair or between two."""

    name: str
    note: str = ""
    of: Items[str]
    less: Items[str]
    between: Couple[str] | None = None
    pair: str | None
    planned: bool
    comparison: ComparisonResult


class FriedmanResult(JsonObject):
    """Friedman's test with Iman and Davenport's F."""

    chi_square: float
    f: float | None
    degrees: Couple[int]
    p: Share


class RanksResult(JsonObject):
    """Average ranks over the pairs; no test, critical difference and bars where ``why`` gives a reason."""

    names: Items[str]
    average: Items[float]
    pairs: OptionalItems[str] = ()
    left_out: OptionalItems[str] = ()
    alpha: float | None = None
    friedman: FriedmanResult | None = None
    critical_difference: NonNegative | None = None
    bars: OptionalItems[Items[str]] = ()
    why: str | None = None
    text: str = ""

    @model_validator(mode="after")
    def _check(self) -> RanksResult:
        if self.average and len(self.average) != len(self.names):
            raise BadInput("average", list(self.average), "one rank a name")
        return self


class TrialResult(JsonObject):
    """One trial: the options tried and what they reached; None where it failed. It may continue a shorter one."""

    number: int
    values: dict[str, Any]
    value: float | None
    continues: int | None = None


class TunedSearch(JsonObject):
    """What one search chose: the number of points tried, the best and all of them."""

    trials: int
    values: dict[str, Any]
    value: float | None
    all: OptionalItems[TrialResult] = ()


class TunedMethod(TunedSearch):
    """What trials chose for a method on a pair; of one tuned anew for each seed it is in ``seeds``."""

    measure: str
    seeds: dict[str, TunedSearch] = Field(default_factory=dict)


class TuningInfo(JsonObject):
    """How methods were tuned: once or for each seed, by how many trials, by which method's trials; and in words."""

    repeat: Literal["once", "per_seed"]
    trials: Count
    by: str | None = None
    text: str


class TunedFile(JsonFile):
    """``tuned.json``: what trials chose, by pair and method."""

    pairs: dict[str, dict[str, TunedMethod]]


class TimedSteps(JsonObject):
    """The steps that a budget in seconds came to, and the median duration of one, which ``results.json`` leaves out."""

    steps: Count
    seconds_per_step: float | None = None


class StepCalibration(JsonObject):
    """A budget in seconds turned into steps, by pair and method."""

    seconds: Number
    pairs: dict[str, dict[str, TimedSteps]]


class CalibrationFile(StepCalibration, JsonFile):
    """``calibration.json``: the same, as it is timed."""


class PlannedRunInfo(JsonObject):
    """A run of a study; ``run`` is its folder's path from the study's."""

    pair: str
    method: str
    seed: int
    run: str


class PlanFile(JsonFile):
    """``plan.json``: every run that a study comes to."""

    study_hash: str
    runs: Items[PlannedRunInfo]


class CacheCost(JsonObject):
    """What building the teacher caches of a pair took: images asked of teachers, and seconds."""

    answers: Count
    seconds: NonNegative


class CachesFile(JsonFile):
    """``caches.json``: the cost of caches by pair."""

    pairs: dict[str, CacheCost]


class JobRecord(JsonObject):
    """Where a job of a study stands. Clock times are in seconds since 1970, 0 before the first start.

    ``value`` is what it came to, for a run the study's measure; ``length`` its epochs or steps.
    """

    id: str
    status: Literal["waiting", "running", "done", "failed"]
    attempts: Count
    began: float
    seconds: float
    reason: str
    value: float | None
    out: str
    length: dict[str, int]


class ProgressFile(JsonFile):
    """``progress.json``: where a study stands, for whoever watches; ``checksum`` is over all other fields."""

    name: str
    measure: str
    workers: int
    phase: str
    began: float
    updated: float
    pid: int
    jobs: dict[str, JobRecord]
    ended: bool
    checksum: str = ""


class StudyResults(JsonFile):
    """``results.json``: everything a study found, without clocks."""

    name: str
    question: str = ""
    study_hash: str = ""
    measure: MeasureInfo
    alpha: Share
    level: Share
    baseline: str
    seeds: Items[int]
    budget: RunLength | None = None
    methods: Items[MethodInfo]
    model_pairs: Items[PairInfo]
    sweep: SweepInfo | None = None
    equal: bool
    checked: OptionalItems[str] = ()
    allowed_differences: OptionalItems[str] = ()
    inequalities: OptionalItems[InequalityInfo] = ()
    missing: OptionalItems[MissingRun] = ()
    runs: OptionalItems[RunResult] = ()
    cell_results: OptionalItems[CellResult] = Field(default=(), alias="cells")
    families: OptionalItems[PairFamilies] = ()
    contrasts: OptionalItems[ContrastResult] = ()
    ranks: RanksResult | None = None
    incremental: OptionalItems[PairTasks] = ()
    conclusions: OptionalItems[str] = ()
    tuning: TuningInfo | None = None
    tuned: dict[str, dict[str, TunedMethod]] | None = None
    calibration: StepCalibration | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The methods' names."""
        return tuple(method.name for method in self.methods)

    @property
    def percent(self) -> str:
        """The coverage of the intervals, in per cent."""
        return f"{100 * self.level:g}%"

    @cached_property
    def cells(self) -> Mapping[CellKey, CellResult]:
        """The results of each method on each pair, by (pair, method)."""
        return {(cell.pair, cell.method): cell for cell in self.cell_results}

    @cached_property
    def to_baseline(self) -> Mapping[CellKey, ComparisonResult]:
        """Each method's comparison with the baseline, by (pair, method)."""
        return {(held.pair, one.method): one for held in self.families for one in held.baseline.comparisons}

    @cached_property
    def between(self) -> Mapping[str, tuple[ComparisonResult, ...]]:
        """Every comparison of two methods, by pair."""
        return {held.pair: held.all.comparisons for held in self.families}

    def runs_of(self, pair: str, method: str) -> tuple[RunResult, ...]:
        """A method's finished runs on a pair, by seed."""
        found = (run for run in self.runs if (run.pair, run.method) == (pair, method))
        return tuple(sorted(found, key=lambda run: run.seed))

    @model_validator(mode="after")
    def _check(self) -> StudyResults:
        pairs = tuple(pair.name for pair in self.model_pairs)
        for field, names in (("methods", self.names), ("model_pairs", pairs)):
            if not names or len(set(names)) < len(names):
                raise BadInput(field, list(names), "at least one, each name once")
        _check_known("baseline", self.baseline, self.names)
        listed: dict[str, tuple[MissingRun | RunResult | CellResult, ...]]
        listed = {"missing": self.missing, "runs": self.runs, "cells": self.cell_results}
        for field, entries in listed.items():
            for place, entry in enumerate(entries):
                _check_known(f"{field}.{place}.pair", entry.pair, pairs)
                _check_known(f"{field}.{place}.method", entry.method, self.names)
        for place, family in enumerate(self.families):
            _check_known(f"families.{place}.pair", family.pair, pairs)
            for kind, held in (("baseline", family.baseline), ("all", family.all)):
                for number, one in enumerate(held.comparisons):
                    where = f"families.{place}.{kind}.comparisons.{number}"
                    _check_known(f"{where}.method", one.method, self.names)
                    _check_known(f"{where}.against", one.against, self.names)
        for place, contrast in enumerate(self.contrasts):
            for name in (*contrast.of, *contrast.less):
                _check_known(f"contrasts.{place}", name, self.names)
            for pair in contrast.between or (contrast.pair,):
                _check_known(f"contrasts.{place}.pair", pair or "", pairs)
        if self.ranks is not None:
            for name in [*self.ranks.names, *(name for bar in self.ranks.bars for name in bar)]:
                _check_known("ranks.names", name, self.names)
        if self.sweep is not None:
            self._check_sweep(self.sweep, pairs)
        return self

    def _check_sweep(self, sweep: SweepInfo, pairs: tuple[str, ...]) -> None:
        for pair in pairs:
            if pair not in sweep.values:
                raise BadInput(f"sweep.values.{pair}", None, "a number for each pair")
        values = [sweep.values[pair] for pair in pairs]
        wrong = [value for value in (*values, *(mark.at for mark in sweep.marks)) if sweep.log and value <= 0]
        if wrong or len(set(values)) < len(values):
            expected = "another number in each pair" + (", and all above 0" if sweep.log else "")
            raise BadInput("sweep.values", sweep.values, expected)


def _check_known(field: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise BadInput(field, name, " or ".join(names))


class DissectionPart(JsonObject):
    """A part of the gain over labels, as a weighted sum ``of`` methods' figures; its share of the whole gain."""

    name: str
    note: str = ""
    of: dict[str, int] = Field(default_factory=dict)
    seeds: Count = 0
    mean: float | None
    low: float | None
    high: float | None
    share: float | None = None


class PairDissection(JsonObject):
    """A pair's gain over labels, and the parts that add up to it; ``gains`` are single levels against labels."""

    pair: str
    total: DissectionPart
    parts: Items[DissectionPart]
    gains: Items[DissectionPart]
    text: str


class Dissection(JsonFile):
    """``dissection.json``: what each level of the teacher's answer brought."""

    measure: MeasureInfo | None = None
    level: float | None = None
    sound: bool = True
    pairs: Items[PairDissection]


class CostRow(JsonObject):
    """A line of ``cost.csv``: a run, a trial, the building of a cache, or the training of a teacher."""

    model_config = ConfigDict(strict=False)

    kind: str
    pair: str | None = None
    method: str | None = None
    seed: int | None = None
    training_seconds: NonNegative | None = None
    evaluation_seconds: NonNegative | None = None
    teacher_answers: NonNegative | None = None
    peak_memory_mb: NonNegative | None = None
    images_per_second: NonNegative | None = None
    cache_seconds: NonNegative | None = None
    trial: int | None = None


COST_COLUMNS = tuple(CostRow.model_fields)


def read_costs(path: Path) -> list[CostRow] | None:
    """Read ``cost.csv``.

    Returns:
        Its lines; None where there is no such file.

    Raises:
        BadInput: it is damaged; names the line, the column and the value.
    """
    if not path.is_file():
        return None
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    rows = []
    try:
        for row in reader:
            content = {key: text for key, text in row.items() if key is not None and (text or "").strip()}
            try:
                rows.append(CostRow.model_validate({"kind": "", **content}))
            except ValidationError as error:
                raise bad_input(error, CostRow).within(f"{path}: line {reader.line_num}") from None
    except csv.Error as error:
        raise BadInput(COST, str(path), f"a CSV file ({error})") from None
    if not {"kind", "pair", "method"} <= set(reader.fieldnames or ()):
        raise BadInput(COST, str(path), "the columns kind, pair and method")
    return rows


def read_study(folder: Path) -> StudyResults:
    """Read a study's results.

    Raises:
        BadInput: the folder is missing, is not a study's or has no results yet, or they are damaged.
    """
    if not folder.is_dir():
        raise BadInput("study", str(folder), "a study's folder" if folder.exists() else "a folder that exists")
    if not (folder / RESULTS).is_file():
        begun = any((folder / name).exists() for name in (STUDY, "progress.json"))
        wanted = "a study with results; the `stillroom compare` or `dissect` that began this one goes on with it"
        raise BadInput("study", str(folder), wanted if begun else f"a study's folder, with {RESULTS}")
    return read_json(StudyResults, folder / RESULTS)


def is_study(folder: Path) -> bool:
    """Whether a folder is a study's whose results are written."""
    return (folder / STUDY).is_file() and (folder / RESULTS).is_file()
