"""An explanation, read and checked: what is wrong in the file is told in one line and never reaches the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from stillroom.errors import BadInput
from stillroom.report.fields import Fields, is_finite
from stillroom.schema.base import clean, read_object

NAME = "explain.json"
VERDICTS = ("supported", "refuted", "undecided")
MEASURES = ("n_fg", "n_bg", "ratio", "d_mean", "d_std", "rho")
TEACHER: Literal["teacher"] = "teacher"
Bounds = tuple[float, float]
Which = int | Literal["teacher"]


@dataclass(frozen=True)
class Checkpoint:
    """Means over images at one checkpoint; ``epoch`` is None of the teacher, quartiles are over images."""

    epoch: float | None
    n_fg: float
    n_bg: float
    ratio: float | None
    quartiles: dict[str, Bounds]


@dataclass(frozen=True)
class Run:
    """One run as the file tells it; ``errors`` is the rms standard error of its entropies at each checkpoint."""

    run: str
    name: str
    role: str
    seed: int
    tap: str
    checkpoints: tuple[Checkpoint, ...]
    layer: str
    d_mean: float | None
    d_std: float | None
    rho: float | None
    without_rho: int
    errors: tuple[float | None, ...]
    accuracy: float | None


@dataclass(frozen=True)
class Measure:
    """One figure of both ways of learning, and their difference with its 95% interval."""

    name: str
    expected: str
    distilled: float | None
    labels: float | None
    difference: float | None
    low: float | None
    high: float | None
    verdict: str | None


@dataclass(frozen=True)
class Hypothesis:
    """One of the three; its verdict is None where something was not measured at all."""

    number: int
    verdict: str | None
    measures: tuple[Measure, ...]


@dataclass(frozen=True)
class Otherwise:
    """The hypotheses where one thing that was chosen is chosen otherwise."""

    what: str
    value: str
    images: int
    hypotheses: tuple[Hypothesis, ...]


@dataclass(frozen=True)
class Agreement:
    """How often two networks say the same of the test images; indices into the runs."""

    one: int
    other: Which
    agree: float
    both_right: float | None
    count: int


@dataclass(frozen=True)
class Cka:
    """Linear CKA of each tap of one network with each of another's."""

    one: int
    other: Which
    one_taps: tuple[str, ...]
    other_taps: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    images: int


@dataclass(frozen=True)
class Explanation:
    """An explanation as its file tells it."""

    grid: int
    weight: float
    stop: float | None
    noise_seed: int
    passes: int | None
    threshold: float
    resamples: int
    runs: tuple[Run, ...]
    hypotheses: tuple[Hypothesis, ...]
    sensitivity: tuple[Otherwise, ...]
    teacher: tuple[str, Checkpoint] | None
    rows: tuple[int, ...]
    excluded: int
    foreground: str
    without_foreground: int
    foreground_share: float
    agreement: tuple[Agreement, ...]
    cka: tuple[Cka, ...]
    attributions: tuple[str, str] | None
    class_names: tuple[str, ...]

    @property
    def distilled(self) -> tuple[int, ...]:
        """The places of the runs that are explained."""
        return tuple(place for place, run in enumerate(self.runs) if run.role == "explained")

    @property
    def labels(self) -> tuple[int, ...]:
        """The places of those that they are held against, in the same order; none without a comparison."""
        return tuple(place for place, run in enumerate(self.runs) if run.role == "against")

    @property
    def epochs(self) -> tuple[float, ...]:
        """Of the checkpoints, the same for all runs."""
        return tuple(one.epoch or 0.0 for one in self.runs[0].checkpoints)


def read_explanation(folder: Path) -> Explanation:
    """Read ``explain.json`` of a run.

    Raises:
        BadInput: there is none, or it is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        raise BadInput("explanation", str(folder), f"a run with {NAME}; `stillroom explain` writes it")
    fields = Fields(path, read_object(path))
    fields.one_of("schema", (1,))
    search, images = fields.inside("search"), fields.inside("images")
    runs = tuple(_run(each) for each in fields.listed("runs"))
    teacher, attributions = fields.maybe_inside("teacher"), fields.maybe_inside("attributions")
    told = Explanation(
        grid=search.whole("grid", low=1),
        weight=search.number("weight"),
        stop=search.maybe_number("stop"),
        noise_seed=search.whole("seed"),
        passes=search.maybe_whole("passes"),
        threshold=fields.number("threshold"),
        resamples=fields.whole("resamples"),
        runs=runs,
        hypotheses=_hypotheses(fields),
        sensitivity=tuple(_otherwise(each) for each in fields.listed("sensitivity")),
        teacher=(teacher.text("name"), _checkpoint(teacher)) if teacher is not None else None,
        rows=images.wholes("rows"),
        excluded=len(images.wholes("excluded")),
        foreground=images.text("foreground"),
        without_foreground=images.whole("without_foreground"),
        foreground_share=images.number("foreground_cells", low=0, high=1),
        agreement=tuple(_agreement(each, len(runs)) for each in fields.listed("agreement")),
        cka=tuple(_cka(each, len(runs)) for each in fields.listed("cka")),
        attributions=(
            None if attributions is None else (attributions.text("method"), attributions.maybe_text("library") or "")
        ),
        class_names=_class_names(folder / "predictions.safetensors"),
    )
    _check(fields, told)
    return told


def _check(fields: Fields, told: Explanation) -> None:
    def expect(holds: bool, key: str, expected: str) -> None:
        if not holds:
            raise BadInput(f"{fields.path}: {key}", fields.content.get(key), expected)

    expect(bool(told.distilled), "runs", "at least one run that is explained")
    expect(len(told.labels) in (0, len(told.distilled)), "runs", "one run to compare with for each, or none")
    for run in told.runs:
        epochs = tuple(one.epoch or 0.0 for one in run.checkpoints)
        expect(bool(epochs) and epochs == told.epochs, "runs", "the same checkpoints of each run, at least one")


def _run(fields: Fields) -> Run:
    fields.one_of("role", ("explained", "against"))
    speed, stability = fields.maybe_inside("speed"), fields.inside("stability")
    errors = fields.content.get("entropy_error") or []
    return Run(
        run=fields.text("run"),
        name=fields.maybe_text("name") or fields.text("run"),
        role=fields.text("role"),
        seed=fields.whole("seed"),
        tap=fields.text("tap"),
        checkpoints=tuple(_checkpoint(each) for each in fields.listed("checkpoints")),
        layer=speed.text("layer") if speed is not None else "",
        d_mean=speed.maybe_number("d_mean") if speed is not None else None,
        d_std=speed.maybe_number("d_std") if speed is not None else None,
        rho=stability.maybe_number("rho", low=0, high=1),
        without_rho=stability.maybe_whole("excluded") or 0,
        errors=tuple(float(each) if is_finite(each) else None for each in errors),
        accuracy=fields.maybe_number("accuracy", low=0, high=1),
    )


def _checkpoint(fields: Fields) -> Checkpoint:
    quartiles = {}
    for key in ("n_fg", "n_bg"):
        ends = fields.numbers(f"{key}_quartiles")
        if len(ends) == 2:
            quartiles[key] = (ends[0], ends[1])
    return Checkpoint(
        epoch=fields.maybe_number("epoch", low=0),
        n_fg=fields.number("n_fg", low=0),
        n_bg=fields.number("n_bg", low=0),
        ratio=fields.maybe_number("ratio", low=0, high=1),
        quartiles=quartiles,
    )


def _hypotheses(fields: Fields) -> tuple[Hypothesis, ...]:
    return tuple(
        Hypothesis(
            each.whole("hypothesis", low=1, high=3),
            _verdict(each),
            tuple(_measure(one) for one in each.listed("measures")),
        )
        for each in fields.listed("hypotheses")
    )


def _measure(fields: Fields) -> Measure:
    fields.one_of("measure", MEASURES)
    fields.one_of("expected", ("higher", "lower"))
    values = {key: fields.maybe_number(key) for key in ("distilled", "labels", "difference", "low", "high")}
    return Measure(name=fields.text("measure"), expected=fields.text("expected"), verdict=_verdict(fields), **values)


def _verdict(fields: Fields) -> str | None:
    fields.one_of("verdict", (*VERDICTS, None))
    return fields.maybe_text("verdict")


def _otherwise(fields: Fields) -> Otherwise:
    value = fields.content.get("value")
    told = f"{value:g}" if isinstance(value, int | float) and is_finite(value) else str(value)
    return Otherwise(fields.text("what"), told, fields.whole("images"), _hypotheses(fields))


def _which(fields: Fields, runs: int) -> Which:
    if fields.content.get("other") == TEACHER:
        return TEACHER
    return fields.whole("other", high=runs - 1)


def _agreement(fields: Fields, runs: int) -> Agreement:
    return Agreement(
        one=fields.whole("one", high=runs - 1),
        other=_which(fields, runs),
        agree=fields.number("agree", low=0, high=1),
        both_right=fields.maybe_number("both_right", low=0, high=1),
        count=fields.whole("count"),
    )


def _cka(fields: Fields, runs: int) -> Cka:
    taps = fields.texts("one_taps"), fields.texts("other_taps")
    values: Any = fields.content.get("values")
    rows = values if isinstance(values, list) and all(isinstance(row, list) for row in values) else []
    if [len(row) for row in rows] != [len(taps[1])] * len(taps[0]) or not rows or not taps[1]:
        raise BadInput(
            f"{fields.path}: {fields.prefix}values", values, "a number for each tap of one with each other's"
        )
    return Cka(
        one=fields.whole("one", high=runs - 1),
        other=_which(fields, runs),
        one_taps=taps[0],
        other_taps=taps[1],
        values=tuple(tuple(float(each) if is_finite(each) else None for each in row) for row in rows),
        images=fields.whole("images"),
    )


def _class_names(path: Path) -> tuple[str, ...]:
    """As the run's predictions have them; none where they cannot be read, for a number does as well."""
    try:
        with safe_open(path, framework="numpy") as file:
            names: Any = json.loads((file.metadata() or {}).get("class_names", "[]"))
    # safetensors raises errors of several kinds for a damaged file, by what is damaged.
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError):
        return ()
    return tuple(str(clean(str(name))) for name in names) if isinstance(names, list) else ()


def class_name(names: Sequence[str], label: int) -> str:
    """What a class is called.

    >>> class_name(("cat",), 0), class_name((), 3)
    ('cat', 'class 3')
    """
    return names[label] if 0 <= label < len(names) and names[label] else f"class {label}"
