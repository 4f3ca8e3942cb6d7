"""The finished runs of a study, read and checked: a damaged file is told by its name and never becomes a number."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from stillroom.config import bad_input
from stillroom.errors import BadInput
from stillroom.files import canonical, digest
from stillroom.recipe import Recipe, parse_recipe
from stillroom.schema.base import read_json as read_file
from stillroom.schema.continual import INCREMENTAL_FILE, FinishedRecord, IncrementalSummary
from stillroom.study.folder import StudyFolder
from stillroom.study.measures import RELATIONS, TASKS
from stillroom.study.plan import Cell, Plan
from stillroom.study.wording import plain

Where = tuple[str, str, int]
FIGURES = ("top1", "top5", "nll", "ece", "agreement", "teacher_kl")
_CHUNK = 8192


class _Facts(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class Hashes(_Facts):
    """What proves that runs were equal."""

    init: str
    order: str
    views: str
    budget: str
    threads: str


class TeacherFacts(_Facts):
    """The teacher, of whom a folder of answers tells but the name."""

    model: str
    weights_hash: str
    top1: float | None = None
    parameters: int | None = None
    multiply_adds: int | None = None


class DataFacts(_Facts):
    """The data."""

    name: str
    classes: int
    train: int = Field(ge=1)
    test: int = Field(ge=1)
    fingerprint: str


class RelationFacts(_Facts):
    """What the student's last layer knows of the classes' relations; why it cannot be told, of each that is None."""

    score: float | None = None
    truth: float | None = None
    teacher: float | None = None
    why: dict[str, str] = {}


class Summary(_Facts):
    """What ``summary.json`` says, checked; units as there."""

    version: Literal[1] = Field(alias="schema")
    recipe_hash: str
    seed: int
    steps: int = Field(ge=0)
    epochs: float
    top1: float = Field(ge=0, le=100)
    correct: int = Field(ge=0)
    count: int = Field(ge=1)
    top5: float | None = None
    nll: float
    ece: float
    agreement: float | None = None
    teacher_kl: float | None = None
    model: str
    parameters: int
    multiply_adds: int
    bytes: int
    teacher: TeacherFacts | None
    data: DataFacts
    relations: RelationFacts | None = None
    incremental: IncrementalSummary | None = None
    device: str
    precision: str
    threads: int = Field(ge=1)
    processes: int = Field(ge=1)
    accumulate: int = Field(ge=1)
    hashes: Hashes

    def value(self, measure: str) -> float | None:
        """One of :data:`FIGURES`, of the class relations or of tasks; None where the run has none."""
        if measure in RELATIONS:
            found = getattr(self.relations, RELATIONS[measure], None)
        elif measure in TASKS:
            found = getattr(self.incremental, TASKS[measure], None)
        else:
            found = getattr(self, measure)
        return None if found is None else float(found)

    def why(self, measure: str) -> str:
        """Why the run has no such figure, where it says so."""
        if measure in TASKS:
            return "its classes did not come in tasks" if self.incremental is None else ""
        if measure not in RELATIONS:
            return ""
        if self.relations is None:
            return "the student does not end in a linear layer, or has too many classes"
        return self.relations.why.get(RELATIONS[measure], "")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of ``metrics.jsonl``: the optimizer steps done, and its figures."""

    step: int
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Answers:
    """What ``predictions.safetensors`` comes to.

    Attributes:
        labels: SHA-256 of the labels that the run was judged by.
        count: how many there are.
        correct: how many top-1 answers are right.
        figures: ``nll``, and with a teacher ``agreement`` and ``teacher_kl``, worked out anew in double precision.
    """

    labels: str
    count: int
    correct: int
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """A finished run of a study.

    Attributes:
        cell: the run that the study asked for.
        summary: what it came to.
        recipe: the recipe beside the run.
        written: that recipe's hash, of the file as it is.
        evaluations: in the order of steps.
        answers: what its predictions come to.
        environment: versions and machine.
        record: of one whose classes came in tasks, what it says of each.
    """

    cell: Cell
    summary: Summary
    recipe: Recipe
    written: str
    evaluations: tuple[Evaluation, ...]
    answers: Answers
    environment: Mapping[str, Any]
    record: FinishedRecord | None = None


@dataclass(frozen=True)
class Missing:
    """A run that is not there, and why."""

    cell: Cell
    reason: str
    status: Literal["failed", "unfinished", "waiting"]


@dataclass(frozen=True)
class Collected:
    """What there is of a study, in the order of its plan, whatever the order in which runs finished."""

    runs: tuple[Run, ...]
    missing: tuple[Missing, ...]


def collect(folder: StudyFolder, plan: Plan, failures: Mapping[str, str] | None = None) -> Collected:
    """Read the finished runs of a study.

    Args:
        folder: the study's folder.
        plan: its runs.
        failures: cell id → why it failed; a run that is finished all the same counts as finished.

    Raises:
        BadInput: a file of a finished run is missing or damaged.
    """
    runs, missing = [], []
    for cell in plan.cells:
        path = folder.run(cell.pair, cell.method, cell.seed)
        if (path / "summary.json").is_file():
            runs.append(read_run(path, cell))
        else:
            reason = (failures or {}).get(cell.id)
            begun = (path / "recipe.yaml").exists()
            if reason is not None:
                missing.append(Missing(cell, _failed(reason, folder), "failed"))
            elif begun:
                missing.append(Missing(cell, "not finished yet", "unfinished"))
            else:
                missing.append(Missing(cell, "not run yet", "waiting"))
    return Collected(tuple(runs), tuple(missing))


def read_run(path: Path, cell: Cell) -> Run:
    """Read a finished run.

    Args:
        path: its folder.
        cell: what it was to be.

    Raises:
        BadInput: a file is missing or damaged.
    """
    summary = read_summary(path / "summary.json")
    recipe, written = _recipe(path / "recipe.yaml")
    return Run(
        cell=cell,
        summary=summary,
        recipe=recipe,
        written=written,
        evaluations=tuple(_evaluations(path / "metrics.jsonl")),
        answers=read_answers(path / "predictions.safetensors"),
        environment=_object(path / "environment.json"),
        record=read_file(FinishedRecord, path / INCREMENTAL_FILE) if summary.incremental is not None else None,
    )


def read_summary(path: Path) -> Summary:
    """Read what a run came to.

    Raises:
        BadInput: naming the file and the field.
    """
    try:
        return Summary.model_validate(_object(path))
    except ValidationError as error:
        raise bad_input(error, Summary).within(str(path)) from None


def read_answers(path: Path) -> Answers:
    """Work out anew what a run's predictions come to.

    Raises:
        BadInput: the file is missing, truncated or damaged.
    """
    wanted = ("labels", "student_logits", "teacher_logits")
    try:
        with safe_open(path, framework="numpy") as file:
            tensors: dict[str, NDArray[Any]] = {
                name: file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118 - not a dict
                if name in wanted
            }
    # safetensors raises errors of several kinds for a damaged file, by what is damaged.
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        raise BadInput("run", str(path), f"a whole safetensors file ({type(error).__name__})") from None
    labels, student, teacher = (tensors.get(name) for name in wanted)
    if labels is None or student is None or labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise BadInput("run", str(path), "labels [N] as whole numbers and student_logits [N, K]")
    for logits in (student, teacher):
        if logits is None:
            continue
        if logits.ndim != 2 or logits.shape != student.shape or len(logits) != len(labels) or not logits.size:
            raise BadInput("run", str(path), "logits [N, K], a row for each label")
        if not np.issubdtype(logits.dtype, np.floating) or not np.isfinite(logits).all():
            raise BadInput("run", str(path), "finite logits")
    if labels.min() < 0 or labels.max() >= student.shape[1]:
        raise BadInput("run", str(path), f"labels from 0 to {student.shape[1] - 1}")
    return _worked_out(labels.astype(np.int64), student, teacher)


def _worked_out(labels: NDArray[np.int64], student: NDArray[Any], teacher: NDArray[Any] | None) -> Answers:
    count = len(labels)
    guesses = student.argmax(axis=1)
    sums = {"nll": 0.0} if teacher is None else {"nll": 0.0, "teacher_kl": 0.0}
    # In pieces, so that a thousand classes do not need all of their probabilities at once.
    for start in range(0, count, _CHUNK):
        piece = slice(start, start + _CHUNK)
        mine = _log_softmax(student[piece])
        sums["nll"] -= float(np.take_along_axis(mine, labels[piece, None], axis=1).sum())
        if teacher is not None:
            theirs = _log_softmax(teacher[piece])
            sums["teacher_kl"] += float((np.exp(theirs) * (theirs - mine)).sum())
    figures = {name: total / count for name, total in sums.items()}
    if teacher is not None:
        figures["agreement"] = 100.0 * int((guesses == teacher.argmax(axis=1)).sum()) / count
    return Answers(digest(labels.astype("<i8").tobytes()), count, int((guesses == labels).sum()), figures)


def _log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _evaluations(path: Path) -> Iterator[Evaluation]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        row = parse_object(line, path, f" in line {number}")
        if row.get("split") != "test":
            continue
        figures = {name: row[name] for name in FIGURES if name in row}
        step = row.get("step")
        if not isinstance(step, int) or not all(isinstance(value, int | float) for value in figures.values()):
            raise BadInput("run", str(path), f"numbers as step and figures in line {number}")
        yield Evaluation(step, figures)


def _recipe(path: Path) -> tuple[Recipe, str]:
    text = read_text(path)
    try:
        content = yaml.safe_load(text)
        return parse_recipe(content), digest(canonical(content))
    except BadInput as error:
        raise error.within(str(path)) from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise BadInput("run", str(path), f"valid YAML ({type(error).__name__})") from None


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        BadInput: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise BadInput("run", str(path), f"a readable file ({reason})") from None


def parse_object(text: str, path: Path, where: str = "") -> dict[str, Any]:
    """A JSON object.

    Args:
        text: what to parse.
        path: its file, for the error.
        where: the place in it, for the error.

    Raises:
        BadInput: it is none.
    """
    try:
        content = json.loads(text)
    # Also what json raises for numbers of thousands of digits and for nesting beyond Python's stack.
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", type(error).__name__)
        raise BadInput("run", str(path), f"a JSON object{where} ({reason})") from None
    if not isinstance(content, dict):
        raise BadInput("run", str(path), f"a JSON object{where}")
    return content


def _object(path: Path) -> dict[str, Any]:
    return parse_object(read_text(path), path)


def read_optional(path: Path) -> dict[str, Any] | None:
    """A JSON object that a study may have; None where it has none.

    Raises:
        BadInput: it is damaged.
    """
    return _object(path) if path.is_file() else None


def _failed(reason: str, folder: StudyFolder) -> str:
    # Where the study lies is no result.
    place = str(folder.path.resolve())
    return f"failed: {plain(reason.replace(place + '/', '').replace(place, 'the study folder'))}"
