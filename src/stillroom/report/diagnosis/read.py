"""A diagnosis, read and checked: what is wrong in the file is told in one line and never reaches the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillroom.errors import BadInput
from stillroom.report.fields import Fields, is_finite
from stillroom.schema.base import read_object

NAME = "diagnosis.json"
VERDICTS = ("problem", "warning", "ok", "skipped")
KINDS = ("bars", "line", "histogram")


@dataclass(frozen=True)
class Plot:
    """Numbers that a person would rather look at; ``mark`` lies on the axis of the values."""

    kind: str
    title: str
    x: tuple[Any, ...]
    y: tuple[float, ...]
    x_label: str
    y_label: str
    mark: float | None


@dataclass(frozen=True)
class Finding:
    """What one check found; ``command`` trains with its remedy, where a recipe can say it."""

    check: str
    verdict: str
    summary: str
    evidence: dict[str, Any]
    threshold: str
    remedy: str
    command: str
    source: str
    plots: tuple[Plot, ...]


@dataclass(frozen=True)
class Level:
    """A mean over seeds with its interval; None where no run finished or one seed has none."""

    mean: float | None
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True)
class Fix:
    """What one remedy brought over the student as it is (``regained``), and which ``share`` that is of what was lost.

    ``seeds`` is how many in all would settle what these left undecided.
    """

    name: str
    checks: tuple[str, ...]
    level: Level
    regained: float | None
    low: float | None
    high: float | None
    holm_p: float | None
    verdict: str
    share: float | None
    times_the_steps: float | None
    seeds: int | None


@dataclass(frozen=True)
class Tried:
    """What trying the remedies told."""

    seeds: tuple[int, ...]
    measure: str
    unit: str
    digits: int
    as_it_is: Level | None
    labels: Fix | None
    fixes: tuple[Fix, ...]
    best: str
    lost: float | None
    conflicts: tuple[str, ...]
    not_tried: tuple[tuple[str, str], ...]
    inequalities: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Diagnosis:
    """A diagnosis as its file tells it."""

    what: str
    kind: str
    verdict: str
    lead: str
    do_first: str
    command: str
    findings: tuple[Finding, ...]
    tried: Tried | None


def read_diagnosis(folder: Path) -> Diagnosis:
    """Read ``diagnosis.json`` of a folder.

    Raises:
        BadInput: there is none, or it is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        raise BadInput("diagnosis", str(folder), f"a folder with {NAME}; `stillroom diagnose` writes it")
    fields = Fields(path, read_object(path))
    fields.one_of("schema", (1,))
    tried = fields.maybe_inside("tried")
    return Diagnosis(
        what=fields.text("what"),
        kind=fields.text("kind"),
        verdict=_verdict(fields),
        lead=fields.text("lead"),
        do_first=fields.maybe_text("do_first") or "",
        command=fields.maybe_text("command") or "",
        findings=tuple(_finding(each) for each in fields.listed("findings")),
        tried=_tried(tried) if tried is not None else None,
    )


def _verdict(fields: Fields) -> str:
    fields.one_of("verdict", VERDICTS)
    return fields.text("verdict")


def _finding(fields: Fields) -> Finding:
    remedy, evidence = fields.maybe_inside("remedy"), fields.maybe_inside("evidence")
    return Finding(
        check=fields.text("check"),
        verdict=_verdict(fields),
        summary=fields.text("summary"),
        evidence=evidence.content if evidence is not None else {},
        threshold=fields.maybe_text("threshold") or "",
        remedy=remedy.text("words") if remedy is not None else "",
        command=fields.maybe_text("command") or "",
        source=fields.maybe_text("source") or "",
        plots=tuple(_plot(each) for each in fields.listed("plots")),
    )


def _plot(fields: Fields) -> Plot:
    fields.one_of("kind", KINDS)
    kind, x, y = fields.text("kind"), fields.content.get("x"), fields.numbers("y")
    wanted = len(y) + (kind == "histogram")
    if not isinstance(x, list) or len(x) != wanted:
        raise BadInput(f"{fields.path}: {fields.prefix}x", x, f"a list of {wanted}")
    if kind != "bars" and not all(is_finite(value) for value in x):
        raise BadInput(f"{fields.path}: {fields.prefix}x", x, "finite numbers")
    return Plot(
        kind=kind,
        title=fields.text("title"),
        x=tuple(x),
        y=y,
        x_label=fields.maybe_text("x_label") or "",
        y_label=fields.maybe_text("y_label") or "",
        mark=fields.maybe_number("mark"),
    )


def _tried(fields: Fields) -> Tried:
    measure, as_it_is = fields.maybe_inside("measure"), fields.maybe_inside("as_it_is")
    labels = fields.maybe_inside("labels")
    return Tried(
        seeds=fields.wholes("seeds"),
        measure=measure.text("title") if measure is not None else "",
        unit=(measure.maybe_text("unit") or "") if measure is not None else "",
        digits=measure.whole("digits", high=12) if measure is not None else 2,
        as_it_is=_level(as_it_is) if as_it_is is not None else None,
        labels=_fix(labels, "labels") if labels is not None else None,
        fixes=tuple(_fix(each, each.text("name")) for each in fields.listed("fixes")),
        best=fields.maybe_text("best") or "",
        lost=fields.maybe_number("lost"),
        conflicts=fields.texts("conflicts"),
        not_tried=tuple((each.text("check"), each.text("why")) for each in fields.listed("not_tried")),
        inequalities=fields.texts("inequalities"),
        missing=fields.texts("missing"),
    )


def _level(fields: Fields) -> Level:
    mean, low, high = (fields.maybe_number(key) for key in ("mean", "low", "high"))
    return Level(mean, low, high, fields.whole("seeds"))


def _fix(fields: Fields, name: str) -> Fix:
    fields.one_of("verdict", ("better", "worse", "undecided"))
    return Fix(
        name=name,
        checks=fields.texts("checks"),
        level=_level(fields.inside("level")),
        regained=fields.maybe_number("regained"),
        low=fields.maybe_number("low"),
        high=fields.maybe_number("high"),
        holm_p=fields.maybe_number("holm_p", low=0, high=1),
        verdict=fields.text("verdict"),
        share=fields.maybe_number("share_of_loss"),
        times_the_steps=fields.maybe_number("times_the_steps"),
        seeds=fields.maybe_whole("seeds_that_would_settle"),
    )
