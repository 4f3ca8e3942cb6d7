"""A finished run folder, read and checked: what is wrong is told in one line and never reaches the page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stillroom.errors import BadInput
from stillroom.report.class_relations import EPOCHS, GEOMETRY, Geometry, read_geometry
from stillroom.report.fields import Fields, is_finite
from stillroom.report.formats import clean
from stillroom.report.gradient_rescaling import RESCALING, Rescaling, read_rescaling
from stillroom.report.predictions import Predictions, read_predictions
from stillroom.schema.base import read_optional
from stillroom.schema.continual import INCREMENTAL_FILE, JOINT_FILE, FinishedRecord, JointComparison
from stillroom.schema.fidelity import FIDELITY, Fidelity, read_fidelity

SUMMARY = "summary.json"
Row = dict[str, Any]


@dataclass(frozen=True)
class ModelFacts:
    """What was measured of one model: percentages, nats and counts as in ``summary.json``; latency in milliseconds."""

    model: str
    top1: float
    correct: int
    count: int
    top5: float | None
    nll: float | None
    ece: float | None
    agreement: float | None
    teacher_kl: float | None
    parameters: int | None
    multiply_adds: int | None
    bytes: int | None
    latency: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFolder:
    """One finished run as its files tell it.

    ``taught`` says whether the student learned from the teacher, who may also be there to be compared with alone;
    ``checkpoints`` is how many of the student's the folder holds.
    """

    path: Path
    name: str
    seed: int
    steps: int
    epochs: float
    precision: str
    recipe_hash: str
    student: ModelFacts
    teacher: ModelFacts | None
    taught: bool
    data: dict[str, str | int | None]
    hashes: dict[str, str]
    recipe_text: str | None
    recipe: Row
    train: tuple[Row, ...]
    test: tuple[Row, ...]
    latency_threads: dict[str, int]
    environment: dict[str, str]
    predictions: Predictions | None
    checkpoints: int
    fidelity: Fidelity | None
    incremental: FinishedRecord | None
    joint: JointComparison | None
    geometry: Geometry | None
    rescaling: tuple[Rescaling, ...]


def read_run(path: Path) -> RunFolder:
    """Read a finished run.

    Args:
        path: the run folder.

    Returns:
        What its files say. Files that a run may lack (predictions, timing, environment, fidelity) leave their part
        empty.

    Raises:
        BadInput: the folder is missing, is not a run folder, holds an unfinished run, or a file in it is damaged.
    """
    if not path.is_dir():
        raise BadInput("run", str(path), "a run folder" if path.exists() else "a folder that exists")
    if not (path / SUMMARY).is_file():
        begun = any((path / name).exists() for name in ("recipe.yaml", "metrics.jsonl", "state"))
        raise BadInput(
            "run", str(path), "a finished run; continue it with --resume" if begun else f"a run folder, with {SUMMARY}"
        )
    summary = Fields(path / SUMMARY, read_object(path / SUMMARY))
    summary.one_of("schema", (1,))
    data = summary.inside("data")
    hashes = summary.inside("hashes")
    timing = _clocks(path / "timing.jsonl")
    student = _facts(summary, _latency(timing, "student"))
    teachers = summary.inside("teachers")
    # Of several teachers each has figures of its own; the page shows a run's only one.
    teacher = teachers.content.get("teacher")
    # One that could not be asked about the test images has a name, and no score to stand beside the student's.
    has_teacher = teacher is not None and not (
        isinstance(teacher, dict) and teacher.keys() == {"model", "weights_hash"}
    )
    classes = data.whole("classes", low=1)
    train, test = _metrics(path / "metrics.jsonl")
    recipe_text, recipe = _recipe(path / "recipe.yaml")
    recipe_hash = summary.maybe_text("recipe_hash") or ""
    return RunFolder(
        path=path,
        name=summary.text("name"),
        seed=summary.whole("seed"),
        steps=summary.whole("steps"),
        epochs=summary.number("epochs", low=0),
        precision=summary.maybe_text("precision") or "",
        recipe_hash=recipe_hash,
        student=student,
        teacher=_facts(teachers.inside("teacher"), _latency(timing, "teacher")) if has_teacher else None,
        taught=summary.flag("taught", has_teacher),
        data={
            "name": data.text("name"),
            "classes": classes,
            "train": data.maybe_whole("train"),
            "test": data.maybe_whole("test"),
            "fingerprint": data.maybe_text("fingerprint"),
        },
        hashes={str(key): str(value) for key, value in hashes.content.items() if isinstance(value, str | int)},
        recipe_text=recipe_text,
        recipe=recipe,
        train=train,
        test=test,
        latency_threads=_latency_threads(timing),
        environment=_flat(read_object(path / "environment.json")) if (path / "environment.json").is_file() else {},
        predictions=read_predictions(path / "predictions.safetensors", count=student.count, classes=classes),
        checkpoints=len(list((path / "checkpoints").glob("epoch-*.safetensors"))),
        fidelity=read_fidelity(path / FIDELITY, recipe_hash),
        incremental=read_optional(FinishedRecord, path / INCREMENTAL_FILE),
        joint=read_optional(JointComparison, path / JOINT_FILE),
        geometry=_geometry(path),
        rescaling=read_rescaling(path / RESCALING, list(_lines(path / RESCALING))),
    )


def _facts(fields: Fields, latency: dict[int, float]) -> ModelFacts:
    count = fields.whole("count", low=1)
    return ModelFacts(
        model=fields.text("model"),
        top1=fields.number("top1", low=0, high=100),
        correct=fields.whole("correct", high=count),
        count=count,
        top5=fields.maybe_number("top5", low=0, high=100),
        nll=fields.maybe_number("nll", low=0),
        ece=fields.maybe_number("ece", low=0, high=1),
        agreement=fields.maybe_number("agreement", low=0, high=100),
        teacher_kl=fields.maybe_number("teacher_kl"),
        parameters=fields.maybe_whole("parameters"),
        multiply_adds=fields.maybe_whole("multiply_adds"),
        bytes=fields.maybe_whole("bytes"),
        latency=latency,
    )


def _geometry(path: Path) -> Geometry | None:
    if not (path / GEOMETRY).is_file():
        return None
    return read_geometry(path, read_object(path / GEOMETRY), list(_lines(path / EPOCHS)))


def read_text(path: Path) -> str:
    """A file's text.

    Raises:
        BadInput: it cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise BadInput(path.name, str(path), f"a readable file ({reason})") from None


def json_object(text: str, path: Path, line: int | None = None) -> Row:
    """The object that a file, or a line of one, is, its texts cleaned.

    Raises:
        BadInput: it is no JSON object.
    """
    where = "" if line is None else f" in line {line}"
    try:
        content = json.loads(text)
    # Also what json raises for numbers of thousands of digits and for nesting beyond Python's stack.
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", type(error).__name__)
        raise BadInput(path.name, str(path), f"a JSON object{where} ({reason})") from None
    if not isinstance(content, dict):
        raise BadInput(path.name, str(path), f"a JSON object{where}")
    return dict(clean(content))


def read_object(path: Path) -> Row:
    """The object that a JSON file is, its texts cleaned.

    Raises:
        BadInput: it cannot be read, or is no JSON object.
    """
    return json_object(read_text(path), path)


def _lines(path: Path) -> Iterator[Row]:
    if path.is_file():
        for number, line in enumerate(read_text(path).split("\n"), start=1):
            if line.strip():
                yield json_object(line, path, number)


def _clocks(path: Path) -> list[Row]:
    """The events of ``timing.jsonl``; a killed run may leave half a line in it, which takes nothing from the result."""
    events = []
    for line in read_text(path).split("\n") if path.is_file() else ():
        try:
            events.append(json_object(line, path))
        except BadInput:
            continue
    return events


def _metrics(path: Path) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """The lines of training and of evaluation, with numbers only; a value that is not finite is left out."""
    splits: dict[str, list[Row]] = {"train": [], "test": []}
    for row in _lines(path):
        split = row.get("split")
        numbers = {key: value for key, value in row.items() if is_finite(value)}
        if split not in splits or "epoch" not in numbers:
            raise BadInput(path.name, str(path), "lines with an epoch and a split, train or test")
        splits[split].append(numbers)
    return tuple(splits["train"]), tuple(splits["test"])


def _latency(timing: list[Row], who: str) -> dict[int, float]:
    """Milliseconds by batch size, of the last measurement of this model."""
    found: dict[int, float] = {}
    for event in timing:
        milliseconds = event.get("milliseconds")
        if event.get("event") == "latency" and event.get("who") == who and isinstance(milliseconds, dict):
            found |= {int(b): float(v) for b, v in milliseconds.items() if b.isdigit() and is_finite(v) and v > 0}
    return found


def _latency_threads(timing: list[Row]) -> dict[str, int]:
    return {
        str(event["who"]): event["threads"]
        for event in timing
        if event.get("event") == "latency" and "who" in event and isinstance(event.get("threads"), int)
    }


def _recipe(path: Path) -> tuple[str | None, Row]:
    if not path.is_file():
        return None, {}
    text = read_text(path)
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError):
        raise BadInput(path.name, str(path), "valid YAML") from None
    return str(clean(text)), content if isinstance(content, dict) else {}


def _flat(content: Row, prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted keys, everything as text.

    >>> _flat({"a": {"b": 1}, "c": None})
    {'a.b': '1', 'c': '–'}
    """
    rows: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            rows |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            rows[f"{prefix}{key}"] = ", ".join(map(str, value))
        else:
            rows[f"{prefix}{key}"] = "–" if value is None else str(value)
    return rows
