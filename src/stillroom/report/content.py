"""Everything the page shows, worked out before any HTML: the templates only lay it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stillroom.report import curves, palette
from stillroom.report.continual import TasksSection, tasks_section
from stillroom.report.curves import Member
from stillroom.report.depth import DepthMap, depth_map
from stillroom.report.figures import Chart
from stillroom.report.formats import DASH, counted, decimal, scaled, short, signed, three_digits, versus, whole
from stillroom.report.images import Example, examples
from stillroom.report.measures import Answers, Confusion, Whole, answers, calibration, confusions, per_class
from stillroom.report.omega import Omega, omega
from stillroom.report.quality import ClassRow, class_changes, reliability
from stillroom.report.read import RunFolder
from stillroom.report.recipe_words import facts
from stillroom.report.relations import Relations, relations
from stillroom.report.tables import GLOSSARY, HashRow, Notice, Row, hash_rows, notices, side_by_side, table_notes
from stillroom.report.words import Verdict, verdict


@dataclass(frozen=True)
class Tile:
    """One number in large type, with what it is."""

    value: str
    what: str
    detail: str


@dataclass(frozen=True)
class Level:
    """One bar of the header: a model's name, the role of its colour, its top-1 in per cent."""

    name: str
    colour: str
    percent: str
    width: float


@dataclass(frozen=True)
class Pair:
    """A confusion with the classes' names, cut where they are long, and whole."""

    short: str
    whole: str
    before: int
    after: int


@dataclass(frozen=True)
class Content:
    """What the templates lay out."""

    title: str
    run: RunFolder
    has_teacher: bool
    verdict: Verdict
    facts: tuple[str, ...]
    tiles: tuple[Tile, ...]
    levels: tuple[Level, ...]
    members: tuple[Member, ...]
    notices: tuple[Notice, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    curves: tuple[Chart, ...]
    reliability: Chart | None
    classes: Chart | None
    class_rows: tuple[ClassRow, ...]
    pairs: tuple[Pair, ...]
    examples: tuple[Example, ...]
    missing_answers: str
    missing_images: str
    tasks: TasksSection | None
    omega: Omega | None
    relations: Relations | None
    depth: DepthMap | None
    depth_hint: str
    command: str
    environment: dict[str, str]
    hashes: tuple[HashRow, ...]
    glossary: dict[str, str]

    @property
    def charts(self) -> list[Chart]:
        """Every plot of the page."""
        parts = (self.tasks, self.omega, self.relations)
        return [
            *self.curves,
            *(chart for chart in (self.reliability, self.classes) if chart is not None),
            *(chart for part in parts if part is not None for chart in part.charts),
        ]


@dataclass(frozen=True)
class _Answered:
    reliability: Chart
    classes: Chart
    class_rows: tuple[ClassRow, ...]
    pairs: tuple[Pair, ...]
    examples: tuple[Example, ...]


def content(runs: Sequence[tuple[str, RunFolder]]) -> Content:
    """Work out what the page shows; the first run is what it is about, each run comes with its name."""
    run = runs[0][1]
    others = list(runs[1:])
    colours = ["student", *(palette.other(place) for place in range(len(others)))]
    members = [
        Member(f"Student: {name}" if place == 0 else name, colour, each)
        for place, ((name, each), colour) in enumerate(zip(runs, colours, strict=True))
    ]
    answered = _answered(run)
    return Content(
        title=run.name,
        run=run,
        has_teacher=run.teacher is not None,
        verdict=verdict(run, others),
        facts=tuple(facts(run)),
        tiles=tuple(_tiles(run)),
        levels=tuple(_levels(run, members)),
        members=tuple(members),
        notices=tuple(notices(run, others)),
        rows=tuple(side_by_side(run, [other for _, other in others])),
        notes=tuple(table_notes(run, others)),
        curves=tuple(curves.charts(members)),
        reliability=answered.reliability if answered else None,
        classes=answered.classes if answered else None,
        class_rows=answered.class_rows if answered else (),
        pairs=answered.pairs if answered else (),
        examples=answered.examples if answered else (),
        missing_answers="" if answered else "This run folder holds no predictions.safetensors.",
        missing_images=_missing_images(run),
        tasks=tasks_section(members),
        omega=omega(run),
        relations=relations(members),
        depth=depth_map(run.fidelity) if run.fidelity is not None else None,
        depth_hint=_depth_hint(run),
        command=f"stillroom {_command(run)} recipe.yaml --out RUN",
        environment=run.environment,
        hashes=tuple(hash_rows([each for _, each in runs])),
        glossary=GLOSSARY,
    )


def _tiles(run: RunFolder) -> list[Tile]:
    student, teacher = run.student, run.teacher
    if teacher is None:
        return [
            Tile(f"{decimal(student.top1)}%", "top-1", f"{whole(student.correct)} of {whole(student.count)}"),
            Tile(decimal(student.nll, 3), "NLL", "nats an image"),
            Tile(scaled(student.parameters), "parameters", student.model),
            Tile(scaled(student.multiply_adds), "multiply-adds", "an image"),
        ]
    kept = f"{decimal(100 * student.top1 / teacher.top1)}%" if teacher.top1 else DASH
    tiles = [
        Tile(kept, "of the teacher’s top-1 kept", f"{signed(student.top1 - teacher.top1, 2)} points"),
        _cost_tile("parameters", "fewer", "more", teacher.parameters, student.parameters),
        _cost_tile("multiply-adds", "fewer", "more", teacher.multiply_adds, student.multiply_adds),
    ]
    before, after = teacher.latency.get(1), student.latency.get(1)
    told = versus(before, after, "lower", "higher")
    if told and before and after:
        detail = f"{three_digits(before)} ms to {three_digits(after)} ms"
        tiles.append(_split(told, "latency at batch 1", detail))
    else:
        tiles.append(Tile(DASH, "latency at batch 1", "not measured"))
    return tiles


def _cost_tile(what: str, less: str, more: str, before: int | None, after: int | None) -> Tile:
    told = versus(before, after, less, more)
    return _split(told, what, f"{scaled(before)} to {scaled(after)}") if told else Tile(DASH, what, "not recorded")


def _split(told: str, what: str, detail: str) -> Tile:
    factor, _, word = told.partition(" ")
    return Tile("1×", f"the same {what}", detail) if told == "the same" else Tile(factor, f"{word} {what}", detail)


def _levels(run: RunFolder, members: Sequence[Member]) -> list[Level]:
    levels = [(member.name, member.colour, member.run.student.top1) for member in members]
    if run.teacher is not None:
        levels.insert(0, (f"Teacher: {run.teacher.model}", "teacher", run.teacher.top1))
    return [Level(name, colour, f"{decimal(top1)}%", round(top1, 2)) for name, colour, top1 in levels]


def _answered(run: RunFolder) -> _Answered | None:
    held = run.predictions
    if held is None:
        return None
    classes = len(held.class_names)
    student = answers(held.student_logits, held.labels)
    taught = held.teacher_logits if run.teacher is not None else None
    teacher = answers(taught, held.labels) if taught is not None else None
    bins = [("Student", "student", calibration(student.confidence, student.right))]
    if teacher is not None:
        bins.append(("Teacher", "teacher", calibration(teacher.confidence, teacher.right)))
    rows = _class_rows(student, teacher, held.labels, held.class_names)
    found = confusions(held.labels, teacher.guess if teacher is not None else None, student.guess, classes)
    return _Answered(
        reliability=reliability(bins),
        classes=class_changes(rows),
        class_rows=tuple(sorted(rows, key=lambda row: row.change)),
        pairs=tuple(_pair(confusion, held.class_names) for confusion in found),
        examples=tuple(examples(held, student, teacher)) if teacher is not None else (),
    )


def _class_rows(student: Answers, teacher: Answers | None, labels: Whole, class_names: Sequence[str]) -> list[ClassRow]:
    classes = len(class_names)
    after, counts = per_class(student.right, labels, classes)
    before = per_class(teacher.right, labels, classes)[0] if teacher is not None else None
    return [
        ClassRow(name, int(counts[c]), float(after[c]), float(before[c]) if before is not None else None)
        for c, name in enumerate(class_names)
        if counts[c]
    ]


def _pair(confusion: Confusion, class_names: Sequence[str]) -> Pair:
    label, guess = class_names[confusion.label], class_names[confusion.guess]
    return Pair(f"{short(label)} → {short(guess)}", f"{label} → {guess}", confusion.before, confusion.after)


def _depth_hint(run: RunFolder) -> str:
    """That a map could be made; empty where there is one, or nothing to make it of."""
    teacher, data = run.recipe.get("teacher"), run.recipe.get("data")
    runs_here = isinstance(teacher, dict) and teacher.get("answers") is None
    named = isinstance(data, dict) and data.get("source") != "python"
    if run.fidelity is not None or run.teacher is None or not (run.checkpoints and runs_here and named):
        return ""
    return f"This run kept {counted(run.checkpoints, 'checkpoint')} of its student."


def _command(run: RunFolder) -> str:
    if run.incremental is not None:
        return "incremental"
    return "distill" if run.taught else "train"


def _missing_images(run: RunFolder) -> str:
    """Why there are no images that changed; empty where there are some."""
    held = run.predictions
    if held is None:
        return "This run folder holds no predictions.safetensors."
    if run.teacher is None:
        return "Which images changed most is told against a teacher, and this run had none."
    if held.teacher_logits is None:
        return "The predictions of this run hold no answers of the teacher."
    if held.example_images is None or not len(held.example_images):
        return "The predictions of this run hold no images."
    return ""
