"""A study's folder, read and checked: what is wrong is told in one line and never reaches the page."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from stillroom.errors import BadInput
from stillroom.report.fields import Fields
from stillroom.report.formats import clean
from stillroom.report.read import read_object, read_text
from stillroom.report.study.model import (
    Axis,
    Cell,
    Comparison,
    Differing,
    Measure,
    Method,
    Missing,
    Pair,
    Place,
    Ranks,
    Run,
    Study,
)

RESULTS = "results.json"
STUDY = "study.yaml"
# Further out, the room between two places is no number any more.
_FAR = 1e150
_VERDICTS = ("higher", "lower", "undecided")


def is_study(folder: Path) -> bool:
    """Whether a folder is a study's whose results are written."""
    return (folder / STUDY).is_file() and (folder / RESULTS).is_file()


def read_study(folder: Path) -> Study:
    """Read a study's folder.

    Args:
        folder: the folder.

    Returns:
        What its results say. ``study.yaml`` and ``tuned.json`` may be missing.

    Raises:
        BadInput: the folder is missing, is not a study's or has no results yet, or a file in it is damaged.
    """
    if not folder.is_dir():
        raise BadInput("study", str(folder), "a study's folder" if folder.exists() else "a folder that exists")
    path = folder / RESULTS
    if not path.is_file():
        begun = any((folder / name).exists() for name in (STUDY, "plan.json"))
        wanted = f"a study with results; `stillroom compare {STUDY} --out {folder}` writes {RESULTS}"
        raise BadInput("study", str(folder), wanted if begun else f"a study's folder, with {RESULTS}")
    fields = Fields(path, read_object(path))
    fields.one_of("schema", (1,))
    methods = tuple(_method(each) for each in fields.listed("methods"))
    pairs = tuple(_pair(each) for each in fields.listed("model_pairs"))
    known = {"pair": tuple(pair.name for pair in pairs), "method": tuple(each.name for each in methods)}
    for what, names in known.items():
        if not names or len(set(names)) < len(names):
            raise BadInput(f"{path}: {what}s", list(names), f"at least one {what}, each once")
    fields.one_of("baseline", known["method"])
    measure = _measure(fields.inside("measure"))
    families = _families(fields, known)
    axis, ranks = fields.maybe_inside("sweep"), fields.maybe_inside("ranks")
    budget, calibration = fields.maybe_inside("budget"), fields.maybe_inside("calibration")
    return Study(
        path=folder,
        name=fields.text("name"),
        question=fields.maybe_text("question") or "",
        hash=fields.maybe_text("study_hash") or "",
        measure=measure,
        alpha=fields.number("alpha", low=0, high=1),
        level=fields.number("level", low=0, high=1),
        baseline=fields.text("baseline"),
        seeds=fields.wholes("seeds"),
        budget={key: budget.number(key) for key in budget.content} if budget is not None else {},
        methods=methods,
        pairs=pairs,
        axis=_axis(axis, known["pair"]) if axis is not None else None,
        equal=fields.flag("equal", otherwise=False),
        checked=fields.texts("checked"),
        inequalities=tuple(each.text("text") for each in fields.listed("inequalities")),
        missing=tuple(
            Missing(*_place(each, known), each.whole("seed"), each.text("reason")) for each in fields.listed("missing")
        ),
        runs=tuple(_run(each, known, measure.name) for each in fields.listed("runs")),
        cells={_place(each, known): _cell(each) for each in fields.listed("cells")},
        to_baseline={(pair, each.method): each for pair, kind, each in families if kind == "baseline"},
        between={
            name: tuple(each for pair, kind, each in families if kind == "all" and pair == name)
            for name in known["pair"]
        },
        ranks=_ranks(ranks, known["method"]) if ranks is not None else None,
        conclusions=fields.texts("conclusions"),
        tuned=_tuned(fields, folder / "tuned.json"),
        calibration=calibration.content if calibration is not None else {},
        text=clean(read_text(folder / STUDY)) if (folder / STUDY).is_file() else None,
    )


def _measure(fields: Fields) -> Measure:
    return Measure(
        name=fields.text("name"),
        title=fields.text("title"),
        unit=fields.maybe_text("unit") or "",
        digits=fields.whole("digits", high=12),
        higher_is_better=fields.flag("higher_is_better", otherwise=True),
    )


def _method(fields: Fields) -> Method:
    differs = tuple(
        Differing(each.text("key"), each.maybe_text("value") or "", each.maybe_text("baseline") or "")
        for each in fields.listed("differs")
    )
    return Method(fields.text("name"), fields.maybe_text("note") or "", differs)


def _pair(fields: Fields) -> Pair:
    return Pair(
        name=fields.text("name"),
        note=fields.maybe_text("note") or "",
        student=fields.maybe_text("student") or "",
        teacher=fields.maybe_text("teacher"),
        data=fields.maybe_text("data") or "",
        classes=fields.maybe_whole("classes"),
        train=fields.maybe_whole("train"),
        test=fields.maybe_whole("test"),
        teacher_top1=fields.maybe_number("teacher_top1"),
        steps=fields.maybe_whole("steps"),
        epochs=fields.maybe_number("epochs"),
        precision=fields.maybe_text("precision"),
        threads=fields.maybe_whole("threads"),
    )


def _axis(fields: Fields, pairs: tuple[str, ...]) -> Axis:
    values = fields.inside("values")
    found = {pair: values.number(pair, low=-_FAR, high=_FAR) for pair in pairs}
    marks = tuple(
        (mark.number("at", low=-_FAR, high=_FAR), mark.maybe_text("label") or "") for mark in fields.listed("marks")
    )
    is_log = fields.flag("log", otherwise=False)
    wrong = [value for value in (*found.values(), *(at for at, _ in marks)) if is_log and value <= 0]
    if wrong or len(set(found.values())) < len(found):
        expected = "another number in each pair" + (", and all above 0" if is_log else "")
        raise BadInput(f"{fields.path}: sweep.values", values.content, expected)
    return Axis(fields.text("title"), is_log, marks, found)


def _place(fields: Fields, known: dict[str, tuple[str, ...]]) -> Place:
    fields.one_of("pair", known["pair"])
    fields.one_of("method", known["method"])
    return fields.text("pair"), fields.text("method")


def _run(fields: Fields, known: dict[str, tuple[str, ...]], measure: str) -> Run:
    hashes = fields.maybe_inside("hashes")
    return Run(
        *_place(fields, known),
        seed=fields.whole("seed"),
        path=_inside_the_folder(fields),
        value=fields.maybe_number(measure),
        steps=fields.maybe_whole("steps"),
        parameters=fields.maybe_whole("parameters"),
        multiply_adds=fields.maybe_whole("multiply_adds"),
        hashes={key: str(value) for key, value in hashes.content.items()} if hashes is not None else {},
    )


def _inside_the_folder(fields: Fields) -> str:
    """A run's path, which becomes an address on the page: nothing else than a place within the study's folder."""
    path = PurePosixPath(fields.text("run"))
    if path.is_absolute() or len(path.parts) < 2 or path.parts[0] != "runs" or ".." in path.parts:
        raise BadInput(f"{fields.path}: {fields.prefix}run", str(path), "a path within the study's folder, in runs/")
    return path.as_posix()


def _cell(fields: Fields) -> Cell:
    return Cell(
        count=fields.whole("count"),
        mean=fields.maybe_number("mean"),
        low=fields.maybe_number("low"),
        high=fields.maybe_number("high"),
        why=fields.maybe_text("why"),
        equal=fields.flag("equal", otherwise=True),
    )


def _families(fields: Fields, known: dict[str, tuple[str, ...]]) -> list[tuple[str, str, Comparison]]:
    """Pair, kind and comparison, in the order of the file."""
    found: list[tuple[str, str, Comparison]] = []
    for family in fields.listed("families"):
        family.one_of("pair", known["pair"])
        pair = family.text("pair")
        for kind in ("baseline", "all"):
            held = family.maybe_inside(kind)
            every = held.listed("comparisons") if held is not None else []
            found += [(pair, kind, _comparison(each, known["method"])) for each in every]
    return found


def _comparison(fields: Fields, methods: tuple[str, ...]) -> Comparison:
    fields.one_of("method", methods)
    fields.one_of("against", methods)
    fields.one_of("verdict", _VERDICTS)
    found, plan = fields.maybe_inside("difference"), fields.maybe_inside("plan")
    return Comparison(
        method=fields.text("method"),
        against=fields.text("against"),
        mean=found.number("mean") if found is not None else None,
        low=found.maybe_number("low") if found is not None else None,
        high=found.maybe_number("high") if found is not None else None,
        count=found.whole("count") if found is not None else 0,
        effect=found.maybe_number("effect") if found is not None else None,
        holm_p=fields.maybe_number("holm_p", low=0, high=1),
        verdict=fields.text("verdict"),
        seeds=plan.maybe_whole("seeds") if plan is not None else None,
        cap=plan.maybe_whole("cap") if plan is not None else None,
        why=plan.maybe_text("why") if plan is not None else None,
        told=fields.maybe_text("text") or "",
    )


def _ranks(fields: Fields, methods: tuple[str, ...]) -> Ranks:
    bars = fields.content.get("bars") or []
    names, average = fields.texts("names"), fields.numbers("average")
    if average and len(average) != len(names):
        raise BadInput(f"{fields.path}: {fields.prefix}average", list(average), "one rank a name")
    for group in (names, *(bars if isinstance(bars, list) else [None])):
        if not isinstance(group, tuple | list) or not all(name in methods for name in group):
            raise BadInput(f"{fields.path}: {fields.prefix}bars", group, "lists of the methods' names")
    return Ranks(
        names=names,
        average=average,
        critical_difference=fields.maybe_number("critical_difference", low=0),
        bars=tuple(tuple(bar) for bar in bars),
        why=fields.maybe_text("why"),
        told=fields.maybe_text("text") or "",
    )


def _tuned(fields: Fields, path: Path) -> dict[str, Any]:
    held = fields.maybe_inside("tuned")
    if held is not None:
        return held.content
    return read_object(path) if path.is_file() else {}
