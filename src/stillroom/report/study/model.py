"""What a study's results say, as the page works with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A method on a pair: (pair, method).
Place = tuple[str, str]


@dataclass(frozen=True)
class Measure:
    """What is compared; ``digits`` are its decimals."""

    name: str
    title: str
    unit: str
    digits: int
    higher_is_better: bool

    @property
    def heading(self) -> str:
        """The measure at the start of a line."""
        return self.title[:1].upper() + self.title[1:]

    @property
    def label(self) -> str:
        """The measure with its unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    @property
    def relation(self) -> str:
        """Where ``class_relations.jsonl`` holds it, for a measure of the student's last layer; else empty."""
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


@dataclass(frozen=True)
class Differing:
    """A field of the recipe in which a method differs from the baseline; its value on both sides, as short text."""

    key: str
    value: str
    baseline: str


@dataclass(frozen=True)
class Method:
    """One way to make the student."""

    name: str
    note: str
    differs: tuple[Differing, ...]


@dataclass(frozen=True)
class Pair:
    """A teacher and a student on data: what all its runs share."""

    name: str
    note: str
    student: str
    teacher: str | None
    data: str
    classes: int | None
    train: int | None
    test: int | None
    teacher_top1: float | None
    steps: int | None
    epochs: float | None
    precision: str | None
    threads: int | None


@dataclass(frozen=True)
class Axis:
    """The one number that the pairs differ in: where each lies, and (value, label) of what is marked beside them."""

    title: str
    is_log: bool
    marks: tuple[tuple[float, str], ...]
    values: Mapping[str, float]


@dataclass(frozen=True)
class Missing:
    """A run that has no result, and why."""

    pair: str
    method: str
    seed: int
    reason: str


@dataclass(frozen=True)
class Run:
    """One finished run; ``path`` is its folder's, from the study's."""

    pair: str
    method: str
    seed: int
    path: str
    value: float | None
    steps: int | None
    parameters: int | None
    multiply_adds: int | None
    hashes: Mapping[str, str]


@dataclass(frozen=True)
class Cell:
    """A method on a pair over its seeds; no interval where ``why`` says so, no mean where no run finished.

    ``equal`` is false where something other than what is compared differs from the others'.
    """

    count: int
    mean: float | None
    low: float | None
    high: float | None
    why: str | None
    equal: bool = True


@dataclass(frozen=True)
class Comparison:
    """One method less another, over the seeds that both have."""

    method: str
    against: str
    mean: float | None
    low: float | None
    high: float | None
    count: int
    effect: float | None
    holm_p: float | None
    verdict: str
    seeds: int | None
    cap: int | None
    why: str | None
    told: str


@dataclass(frozen=True)
class Ranks:
    """Average ranks over the pairs; no test, no critical difference and no bars where ``why`` says so."""

    names: tuple[str, ...]
    average: tuple[float, ...]
    critical_difference: float | None
    bars: tuple[tuple[str, ...], ...]
    why: str | None
    told: str


@dataclass(frozen=True)
class Study:
    """A study's folder, read and checked."""

    path: Path
    name: str
    question: str
    hash: str
    measure: Measure
    alpha: float
    level: float
    baseline: str
    seeds: tuple[int, ...]
    budget: Mapping[str, float]
    methods: tuple[Method, ...]
    pairs: tuple[Pair, ...]
    axis: Axis | None
    equal: bool
    checked: tuple[str, ...]
    inequalities: tuple[str, ...]
    missing: tuple[Missing, ...]
    runs: tuple[Run, ...]
    cells: Mapping[Place, Cell]
    to_baseline: Mapping[Place, Comparison]
    between: Mapping[str, tuple[Comparison, ...]]
    ranks: Ranks | None
    conclusions: tuple[str, ...]
    tuned: Mapping[str, Any]
    calibration: Mapping[str, Any]
    text: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """The methods' names."""
        return tuple(method.name for method in self.methods)

    @property
    def percent(self) -> str:
        """The coverage of the intervals."""
        return f"{100 * self.level:g}%"

    def runs_of(self, pair: str, method: str) -> tuple[Run, ...]:
        """A method's finished runs on a pair, by seed."""
        found = (run for run in self.runs if (run.pair, run.method) == (pair, method))
        return tuple(sorted(found, key=lambda run: run.seed))
