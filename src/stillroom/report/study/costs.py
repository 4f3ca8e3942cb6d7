"""What each method cost: ``cost.csv``, read and checked, as medians over the seeds."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from stillroom.errors import BadInput
from stillroom.report.formats import DASH, counted, scaled, three_digits, whole
from stillroom.report.read import read_text
from stillroom.report.study.model import Place, Run, Study

COST = "cost.csv"
_CLOCKS = (
    "training_seconds",
    "evaluation_seconds",
    "teacher_answers",
    "peak_memory_mb",
    "images_per_second",
    "cache_seconds",
)


@dataclass(frozen=True)
class Kind:
    """One kind of cost: its key, its words, how its numbers and an axis of them are written, what to know about it."""

    key: str
    title: str
    unit: str
    written: Callable[[float], str]
    note: str
    ticks: str = "~s"


def seconds(value: float) -> str:
    """A time in the unit that suits it.

    >>> seconds(0.5), seconds(77.0), seconds(600.0), seconds(9000.0)
    ('0.5 s', '77.0 s', '10.0 min', '2.50 h')
    """
    if value < 120:
        return f"{value:.1f} s"
    return f"{three_digits(value / 60)} min" if value < 7200 else f"{three_digits(value / 3600)} h"


KINDS = (
    Kind(
        "training_seconds",
        "Training time",
        "seconds",
        seconds,
        "Seconds of training, median over the seeds; evaluation and trials apart. Clocks of this machine: runs that "
        "shared its cores slowed one another.",
        ",~g",
    ),
    Kind(
        "teacher_answers",
        "Teacher answers",
        "images",
        whole,
        "Images whose answers a run itself asked of the teacher, median over the seeds; those kept in a cache were "
        "asked for once, when it was built.",
    ),
    Kind("parameters", "Parameters", "numbers", scaled, "Numbers learnt by the student."),
    Kind("multiply_adds", "Multiply-adds", "for one image", scaled, "Of the student, for one image."),
    Kind(
        "peak_memory_mb",
        "Peak memory",
        "MB",
        lambda value: f"{three_digits(value)} MB",
        "Median over the seeds.",
        ",~g",
    ),
)


@dataclass(frozen=True)
class Spent:
    """The sum over trials, or over the caches that were built."""

    count: int = 0
    seconds: float = 0.0
    answers: float = 0.0


@dataclass(frozen=True)
class Costs:
    """Medians by (pair, method) and kind; trials by (pair, method); caches by pair; teachers by name.

    ``found`` says whether there is a ``cost.csv``.
    """

    found: bool
    medians: dict[Place, dict[str, float]] = field(default_factory=dict)
    trials: dict[Place, Spent] = field(default_factory=dict)
    caches: dict[str, Spent] = field(default_factory=dict)
    teachers: dict[str, Spent] = field(default_factory=dict)


def read_costs(study: Study) -> Costs:
    """Read ``cost.csv`` and add the students' sizes from the results.

    Raises:
        BadInput: the file is damaged.
    """
    path = study.path / COST
    columns: dict[Place, dict[str, list[float]]] = {}
    trials: dict[Place, Spent] = {}
    caches: dict[str, Spent] = {}
    teachers: dict[str, Spent] = {}
    for number, row in _rows(path):
        kind, pair, method = (row.get(key) or "" for key in ("kind", "pair", "method"))
        numbers = {key: _number(path, number, key, row.get(key)) for key in _CLOCKS}
        spent = (numbers["training_seconds"] or 0.0, numbers["teacher_answers"] or 0.0)
        if kind == "run":
            held = columns.setdefault((pair, method), {})
            for key, value in numbers.items():
                if value is not None:
                    held.setdefault(key, []).append(value)
        elif kind == "trial":
            trials[pair, method] = _added(trials.get((pair, method), Spent()), *spent)
        elif kind == "cache":
            caches[pair] = _added(caches.get(pair, Spent()), numbers["cache_seconds"] or 0.0, spent[1])
        elif kind == "teacher":
            teachers[method] = _added(teachers.get(method, Spent()), *spent)
    medians = {place: {key: median(values) for key, values in held.items()} for place, held in columns.items()}
    for pair_name in (pair.name for pair in study.pairs):
        for name in study.names:
            sizes = _sizes(study.runs_of(pair_name, name))
            if sizes:
                medians[pair_name, name] = medians.get((pair_name, name), {}) | sizes
    return Costs(path.is_file(), medians, trials, caches, teachers)


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    if not path.is_file():
        return []
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise BadInput(COST, str(path), f"a CSV file ({error})") from None
    if not {"kind", "pair", "method"} <= set(reader.fieldnames or ()):
        raise BadInput(COST, str(path), "the columns kind, pair and method")
    return rows


def _number(path: Path, line: int, key: str, text: str | None) -> float | None:
    if text is None or not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise BadInput(f"{path}: line {line}: {key}", text, "a number of 0 or more, or nothing")
    return value


def _added(spent: Spent, seconds: float, answers: float) -> Spent:
    return Spent(spent.count + 1, spent.seconds + seconds, spent.answers + answers)


def _sizes(runs: tuple[Run, ...]) -> dict[str, float]:
    """One student has one size over its seeds; were it not so, the first would do."""
    if not runs:
        return {}
    first = runs[0]
    found = {"parameters": first.parameters, "multiply_adds": first.multiply_adds}
    return {key: float(value) for key, value in found.items() if value is not None}


@dataclass(frozen=True)
class CostRow:
    """What a method cost on a pair, as text."""

    pair: str
    name: str
    cells: tuple[str, ...]


COLUMNS = ("Training", "Evaluation", "Images a second", "Teacher answers", "Peak memory", "Parameters", "Multiply-adds")


def cost_rows(study: Study, costs: Costs) -> tuple[CostRow, ...]:
    """The table of costs."""
    return tuple(
        CostRow(pair.name, name, _cells(costs.medians.get((pair.name, name), {})))
        for pair in study.pairs
        for name in study.names
    )


def _cells(held: dict[str, float]) -> tuple[str, ...]:
    columns: tuple[tuple[str, Callable[[float], str]], ...] = (
        ("training_seconds", seconds),
        ("evaluation_seconds", seconds),
        ("images_per_second", whole),
        ("teacher_answers", whole),
        ("peak_memory_mb", lambda value: f"{three_digits(value)} MB"),
        ("parameters", scaled),
        ("multiply_adds", scaled),
    )
    return tuple(written(held[key]) if key in held else DASH for key, written in columns)


def cost_notes(study: Study, costs: Costs) -> tuple[str, ...]:
    """What the table of runs leaves out: teachers trained here, caches, trials."""
    notes = [
        f"The teacher {name}, trained here: {seconds(spent.seconds)}, once for all."
        for name, spent in costs.teachers.items()
    ]
    for pair in study.pairs:
        where = f" on {pair.name}" if len(study.pairs) > 1 else ""
        cache = costs.caches.get(pair.name)
        if cache is not None:
            notes.append(
                f"The teacher’s cache{where}: {whole(cache.answers)} answers, {seconds(cache.seconds)}, once for all."
            )
        trials = [
            f"{name} {seconds(costs.trials[pair.name, name].seconds)}"
            f" ({counted(costs.trials[pair.name, name].count, 'trial')})"
            for name in study.names
            if (pair.name, name) in costs.trials
        ]
        if trials:
            notes.append(f"Trials{where}, not counted above: {', '.join(trials)}.")
    return tuple(notes)
