"""One self-contained HTML page from finished run folders: how good the student is, what it costs, where it changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from stillroom.errors import BadInput
from stillroom.report.blocks import PageContext, Tile, Values
from stillroom.report.charts import other
from stillroom.report.continual import tasks_section
from stillroom.report.depth import depth_map
from stillroom.report.formats import DASH, decimal, factor, scaled, short, signed, three_digits, versus, whole
from stillroom.report.html import rendered, write_page
from stillroom.report.run import words
from stillroom.report.run.charts import (
    ClassRow,
    Member,
    ModelCalibration,
    class_changes,
    css_dash,
    curve_charts,
    dash_of,
    example_images,
    reliability,
)
from stillroom.report.run.class_relations import relations_section
from stillroom.report.run.data import RunData, read_run
from stillroom.report.run.gradient_rescaling import rescaling_section
from stillroom.report.run.targets import targets_values
from stillroom.report.run.words import TopOneGap, top1_gap
from stillroom.schema.predictions import (
    Confusion,
    ImageScores,
    Integers,
    calibration,
    confusions,
    per_class,
    score_images,
)
from stillroom.wording import TEXTS, counted, listed

EXPLAINED = "explain.html"
GLOSSARY = {
    "Top-1": "Share of test $images whose most probable class is the true one. Higher is better.",
    "Top-5": "Share of test $images whose true class is among the five most probable. Higher is better.",
    "NLL": "Negative log-likelihood: mean of −log of the probability given to the true class, in nats. "
    "Lower is better; it punishes confident mistakes.",
    "ECE": "Expected calibration error: how far confidence is from accuracy on average over 15 bins of equal width, "
    "0 to 1. Lower is better.",
    "Agreement": "Share of test $images on which student and teacher predict the same class, right or wrong.",
    "KL to teacher": "Mean Kullback-Leibler divergence from the teacher’s probabilities to the student’s at "
    "temperature 1, in nats. 0: the same probabilities.",
    "Parameters": "Trainable weights of the model.",
    "Multiply-adds": "Multiply-add operations for one $image; the usual measure of compute.",
    "Size on disk": "Bytes of the weights in their file (1 kB = 1,000 bytes).",
    "Latency, batch 1": "Least time for one $image through the model in repeated passes, in milliseconds, on the "
    "machine under Environment.",
    "Latency, batch 64": "The same for 64 $images at once.",
}
_NO_PREDICTIONS = "This run folder holds no predictions.safetensors."


def write_report(runs: Sequence[Path], out: Path | None = None, steps: Sequence[tuple[str, str]] = ()) -> Path:
    """Write one HTML page about finished runs.

    Args:
        runs: run folders; the page is about the first, the others are compared with it.
        out: the file to write; left out: ``report.html`` in the first run's folder.
        steps: what to try next: why, and a command or none.

    Returns:
        The file that was written.

    Raises:
        BadInput: a folder is missing, unfinished or damaged, or the page cannot be written.

    >>> write_report([])
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: runs: got []; expected at least one run folder
    """
    if not runs:
        raise BadInput("runs", [], "at least one run folder")
    seen: set[Path] = set()
    for run in runs:
        if run.resolve() in seen:
            raise BadInput("runs", str(run), "each run folder once")
        seen.add(run.resolve())
    target = out if out is not None else runs[0] / "report.html"
    if target.is_dir():
        raise BadInput("out", str(target), "a file, not a folder")
    # What `stillroom explain` wrote into the same folder; a page elsewhere would not find it.
    is_explained = target.parent.resolve() == runs[0].resolve() and (runs[0] / EXPLAINED).is_file()
    page = render([read_run(Path(run)) for run in runs], None, EXPLAINED if is_explained else "", steps)
    return write_page(target, page)


def render(
    runs: Sequence[RunData],
    context: PageContext | None = None,
    explained: str = "",
    steps: Sequence[tuple[str, str]] = (),
) -> str:
    """The page as text; the same runs give the same text.

    Raises:
        BadInput: the runs are of data with different kinds of labels.
    """
    named, task = list(zip(words.run_names(runs), runs, strict=True)), runs[0].summary.task
    if (other := next((each for each in runs if each.summary.task != task), None)) is not None:
        raise BadInput(
            "runs", f"{other.name} ({other.summary.task})", f"runs of one kind of labels: the first is {task}"
        )
    page = run_page(named) if task == "single_label" else _targets_page(named)
    return rendered(
        "run.html.j2" if task == "single_label" else "targets.html.j2",
        figures={chart.key: chart.figure for chart in page.charts},
        plotly_at=context.plotly if context is not None else None,
        unit=runs[0].unit,
        page=page,
        study=context,
        explained=explained,
        steps=steps,
    )


@dataclass(frozen=True)
class Column:
    """A column of the comparison: a model with its run's colour and dash, or (``against``) the student against one."""

    title: str
    model: str = ""
    colour: str = ""
    dash: str = "solid"
    against: str = ""
    kind: str = ""


@dataclass(frozen=True)
class MetricCell:
    """A cell of the comparison, and how it is shown: the subject, worse than what it is compared with, or plain."""

    text: str
    kind: str = ""


def run_page(runs: Sequence[tuple[str, RunData]]) -> Values:
    """Work out what the page shows; the first run is what it is about, each run comes with its name."""
    run, others = runs[0][1], list(runs[1:])
    labels = words.labels_run(run, [each for _, each in others])
    members = _members(runs)
    parts = _prediction_parts(members)
    curves, tasks = curve_charts(members), tasks_section(members)
    rescaling, relations = rescaling_section(run), relations_section(members)
    charts = [*curves, *((parts.reliability, parts.classes) if parts is not None else ())]
    return Values(
        run=run,
        headline=words.headline(run, labels),
        against=tuple(words.against(run, name, each) for name, each in others if each is not labels),
        caveat=words.caveat(run, with_others=bool(others)),
        facts=tuple(words.facts(run)),
        hint=words.missing_labels(run, labels),
        tiles=_tiles(run, labels),
        bars=_bars(run, members),
        members=tuple(members),
        notices=notices(run, others),
        comparison=compare(members, labels),
        notes=_table_notes(run, others),
        curves=curves,
        predictions=parts,
        missing_predictions="" if parts else _NO_PREDICTIONS,
        missing_images=_missing_images(run, parts),
        tasks=tasks,
        rescaling=rescaling,
        relations=relations,
        depth=depth_map(run.fidelity) if run.fidelity is not None else None,
        depth_hint=_depth_hint(run),
        command=_command(run),
        hashes=_hash_rows([each for _, each in runs]),
        glossary={_worded(name, run): _worded(meaning, run) for name, meaning in GLOSSARY.items()},
        charts=[
            *charts,
            *(chart for each in (tasks, rescaling, relations) if each for chart in each.charts),
        ],
    )


def _targets_page(runs: Sequence[tuple[str, RunData]]) -> Values:
    """What the page of multi-label or regression data shows; the first run is what it is about."""
    run, others = runs[0][1], list(runs[1:])
    shown = targets_values(_members(runs), words.labels_run(run, [each for _, each in others]))
    shown.notices = notices(run, others)
    shown.hashes = _hash_rows([each for _, each in runs])
    shown.command = _command(run)
    shown.glossary |= {name: GLOSSARY[name] for name in ("Parameters", "Multiply-adds", "Size on disk")}
    return shown


def _members(runs: Sequence[tuple[str, RunData]]) -> list[Member]:
    return [
        Member(name if place else f"Student: {name}", other(place - 1) if place else "student", each)
        for place, (name, each) in enumerate(runs)
    ]


def _tiles(run: RunData, labels: RunData | None) -> list[Tile]:
    student, teacher = run.student, run.teacher
    if teacher is None:
        return [
            Tile(f"{decimal(student.top1)}%", "top-1", f"{whole(student.correct)} of {whole(student.count)}"),
            Tile(decimal(student.nll, 3), "NLL", "nats $an_image"),
            Tile(scaled(student.parameters), "parameters", student.model),
            Tile(scaled(student.multiply_adds), "multiply-adds", "$an_image"),
        ]
    before, after = (run.latency.get(who, {}).get(1) for who in (run.summary.reference or "teacher", "student"))
    kept = f"{decimal(100 * student.top1 / teacher.top1)}%" if teacher.top1 else DASH
    points = signed(student.top1 - teacher.top1, 2)
    first = Tile(kept, "of the teacher’s top-1 kept", f"{points} points")
    if run.teacher_word == "peer":
        first = Tile(points, "points of top-1 against its peer", f"{decimal(teacher.top1)}% the peer")
    if labels is not None and (gap := top1_gap(run, labels)) is not None:
        significance = "" if gap.resolved or gap.points == 0 else ", not significant"
        detail = f"± {decimal(gap.margin, 2)} over the test $images{significance}"
        first = Tile(signed(gap.points, 2), "points of top-1 against labels alone", detail)
    several = teacher.parameters is None and len(run.teachers) > 1
    missing = "the teacher is several networks" if several else "not recorded"
    return [
        first,
        _cost_tile("parameters", ("fewer", "more"), teacher.parameters, student.parameters, scaled, missing),
        _cost_tile("multiply-adds", ("fewer", "more"), teacher.multiply_adds, student.multiply_adds, scaled, missing),
        _cost_tile("latency at batch 1", ("lower", "higher"), before, after, _milliseconds, "not measured"),
    ]


def _cost_tile(
    what: str,
    sides: tuple[str, str],
    before: float | None,
    after: float | None,
    written: Callable[[float | None], str],
    missing: str,
) -> Tile:
    found = factor(before, after, *sides)
    if found is None:
        return Tile(DASH, what, missing)
    detail = f"{written(before)} to {written(after)}"
    return Tile(found[0], f"{found[1]} {what}", detail) if found[1] else Tile("1×", f"the same {what}", detail)


def _bars(run: RunData, members: Sequence[Member]) -> list[Values]:
    held = [(member.name, member.colour, member.run.student.top1) for member in members]
    teachers = [(f"{run.teacher_title(name)}: {one.model}", "teacher", one.top1) for name, one in run.teachers.items()]
    held = [*teachers, *held]
    return [
        Values(name=name, colour=colour, percent=f"{decimal(top1)}%", width=round(top1, 2))
        for name, colour, top1 in held
    ]


def _prediction_parts(members: Sequence[Member]) -> Values | None:
    run = members[0].run
    held = run.predictions
    if held is None:
        return None
    student = score_images(held.student_logits, held.labels)
    logits = held.teacher_logits if run.teacher is not None else None
    teacher = score_images(logits, held.labels) if logits is not None else None
    bins = [ModelCalibration("Student", "student", "solid", calibration(student.confidence, student.right))]
    if teacher is not None:
        title = run.teacher_title(run.summary.reference or "")
        bins.append(ModelCalibration(title, "teacher", "dash", calibration(teacher.confidence, teacher.right)))
    for place, member in enumerate(members[1:], start=1):
        if (theirs := member.run.predictions) is not None:
            scores = score_images(theirs.student_logits, theirs.labels)
            bins.append(
                ModelCalibration(
                    member.name, member.colour, dash_of(place), calibration(scores.confidence, scores.right)
                )
            )
    rows = _class_rows(student, teacher, held.labels, held.class_names)
    before = teacher.guess if teacher is not None else None
    found = confusions(held.labels, before, student.guess, len(held.class_names))
    return Values(
        calibrations=tuple(bins),
        reliability=reliability(bins),
        classes=class_changes(rows, run.teacher_word),
        class_rows=sorted(rows, key=lambda row: row.change),
        confusions=tuple(_confusion_row(one, held.class_names) for one in found),
        by_superclass=_by_superclass(run, held.labels, student, teacher),
        examples=tuple(example_images(held, student, teacher)) if teacher is not None else (),
        with_teacher=teacher is not None,
    )


def _class_rows(
    student: ImageScores, teacher: ImageScores | None, labels: Integers, class_names: Sequence[str]
) -> list[ClassRow]:
    after, counts = per_class(student.right, labels, len(class_names))
    before = per_class(teacher.right, labels, len(class_names))[0] if teacher is not None else None
    return [
        ClassRow(name, int(counts[c]), float(after[c]), float(before[c]) if before is not None else None)
        for c, name in enumerate(class_names)
        if counts[c]
    ]


def _by_superclass(run: RunData, labels: Integers, student: ImageScores, teacher: ImageScores | None) -> Values | None:
    """How often each superclass is taken for each, in per cent of its test samples; None where there are none."""
    groups = run.relations.superclasses if run.relations is not None else None
    if groups is None or not 1 < len(set(groups)) <= _MOST_SUPERCLASSES:
        return None
    names = sorted(set(groups))
    of_class = np.array([names.index(group) for group in groups])
    models = [("Student", student), *([(run.teacher_word.capitalize(), teacher)] if teacher is not None else [])]
    counts = np.bincount(of_class[labels], minlength=len(names))
    tables = []
    for name, scores in models:
        pairs = np.bincount(of_class[labels] * len(names) + of_class[scores.guess], minlength=len(names) ** 2)
        shares = 100 * pairs.reshape(len(names), -1) / np.maximum(counts, 1)[:, None]
        rows = [
            (names[place], int(counts[place]), shares[place].tolist()) for place in range(len(names)) if counts[place]
        ]
        right = 100 * float((of_class[labels] == of_class[scores.guess]).mean())
        tables.append(Values(name=name, right=decimal(right), rows=rows))
    return Values(names=names, tables=tables)


def _confusion_row(confusion: Confusion, class_names: Sequence[str]) -> Values:
    label, guess = class_names[confusion.label], class_names[confusion.guess]
    return Values(
        short=f"{short(label)} → {short(guess)}",
        whole=f"{label} → {guess}",
        before=confusion.before,
        after=confusion.after,
    )


def _depth_hint(run: RunData) -> str:
    """That a map could be made; empty where there is one, or nothing to make it of."""
    teacher, data = run.recipe.get("teacher"), run.recipe.get("data")
    runs_here = isinstance(teacher, dict) and teacher.get("learns") is None and teacher.get("logits") is None
    named = isinstance(data, dict) and data.get("source") != "python" and run.unit is not TEXTS
    if run.fidelity is not None or run.teacher is None or not (run.checkpoints and runs_here and named):
        return ""
    return f"This run kept {counted(run.checkpoints, 'checkpoint')} of its student."


def _command(run: RunData) -> str:
    """What makes the run again; empty where no command does."""
    if run.in_python:
        return ""
    verb = "incremental" if run.incremental is not None else "distill" if run.distilled else "train"
    return f"stillroom {verb} recipe.yaml --out RUN"


def _missing_images(run: RunData, parts: Values | None) -> str:
    """Why there are no images that changed; empty where there are some."""
    held = run.predictions
    if held is None:
        return _NO_PREDICTIONS
    if run.teacher is None:
        return "The most changed $images are found by comparison with a teacher, and this run has none."
    if held.teacher_logits is None:
        return "The predictions of this run contain no teacher logits."
    if held.example_indices is None or not len(held.example_indices):
        return "The predictions of this run contain no $images."
    if parts is not None and not parts.examples:
        count, word = len(held.example_indices), run.teacher_word
        return f"On the {count} $images that changed most the student gives its {word}’s answer."
    return ""


def compare(members: Sequence[Member], labels: RunData | None = None) -> Values:
    """The comparison table, in the order of the glossary; rows that no model has a number for are left out."""
    run, several = members[0].run, len(members[0].run.teachers) > 1
    places = sorted(range(1, len(members)), key=lambda place: members[place].run is not labels)
    columns = [
        Column(run.teacher_title(name), one.model, "teacher", "dashed") for name, one in run.teachers.items()
    ] + [Column("Student", run.student.model, "student", kind="subject")]
    if run.teacher is not None:
        columns.append(
            Column(f"Student against {run.summary.reference if several else run.teacher_word}", against="teacher")
        )
    for place in places:
        member = members[place]
        columns.append(Column(member.name, member.run.student.model, member.colour, css_dash(place)))
        if member.run is labels:
            columns.append(Column("Student against labels", against="labels"))
    others = [members[place].run for place in places]
    rows, metrics = [], (*_METRICS, *_of_lengths([run, *others]))
    for number, metric in enumerate(metrics):
        teachers = [_figure(run, name, metric) for name in run.teachers]
        student, of_others = _figure(run, None, metric), [_figure(each, None, metric) for each in others]
        if not isinstance(metric.key, str):
            of_others = [
                student if value is None and _shares_latency(each, run) else value
                for value, each in zip(of_others, others, strict=True)
            ]
        if several and metric.key in ("agreement", "teacher_kl"):
            student = None  # each teacher's column has its own
        values = [*teachers, student, *of_others]
        if metric.is_quality and all(value is None for value in values):
            continue
        cells = [MetricCell(metric.written(value)) for value in teachers]
        cells.append(MetricCell(metric.written(student), "subject"))
        if run.teacher is not None:
            cells.append(_against(metric, _figure(run, run.summary.reference, metric), student))
        for value, each in zip(of_others, others, strict=True):
            cells.append(MetricCell(metric.written(value)))
            if each is labels:
                # The same student: what differs between its latencies is the machine's doing.
                is_clock = not isinstance(metric.key, str)
                cells.append(MetricCell(DASH) if is_clock else _against(metric, value, student))
        starts_group = number > 0 and metrics[number - 1].is_quality and not metric.is_quality
        rows.append(
            Values(
                metric=_worded(metric.name, run),
                meaning=_worded(GLOSSARY.get(metric.name, _TOKENS), run),
                cells=tuple(cells),
                starts_group=starts_group,
            )
        )
    return Values(columns=tuple(columns), rows=tuple(rows))


@dataclass(frozen=True)
class Metric:
    """A row of the comparison: a score by its field, a latency by its batch or by (tokens,); how it is written."""

    name: str
    key: str | int | tuple[int]
    written: Callable[[float | None], str]
    sides: tuple[str, str]
    is_quality: bool = False
    is_share: bool = False
    is_error: bool = False


def _figure(run: RunData, teacher: str | None, metric: Metric) -> float | None:
    """A figure of a run's student, or of one of its teachers: a score by its name, a latency by its batch."""
    if isinstance(metric.key, tuple):
        return run.latency_by_tokens.get(teacher or "student", {}).get(metric.key[0])
    if isinstance(metric.key, int):
        return run.latency.get(teacher or "student", {}).get(metric.key)
    scores = run.student if teacher is None else run.teachers.get(teacher)
    return None if scores is None else getattr(scores, metric.key)


def _shares_latency(other: RunData, run: RunData) -> bool:
    """Whether a run that was not timed has a student of the timed one's architecture."""
    sizes = [(each.student.model, each.student.parameters, each.student.multiply_adds) for each in (other, run)]
    return sizes[0] == sizes[1] and not other.latency.get("student") and bool(run.latency.get("student"))


def _against(metric: Metric, before: float | None, after: float | None) -> MetricCell:
    """The student's figure against another's; a likelihood or a calibration that got worse is marked."""
    if metric.is_share and before is not None and after is not None:
        return MetricCell(f"{signed(after - before, 2)} points")
    text = versus(before, after, *metric.sides)
    if text is None or metric.key in ("agreement", "teacher_kl"):
        return MetricCell(DASH)
    is_worse = metric.is_error and before is not None and after is not None and text != "the same" and after > before
    return MetricCell(f"{text}: worse", "lost") if is_worse else MetricCell(text)


def _worded(text: str, run: RunData) -> str:
    """A text on the teacher that the student is compared with, of a peer where it is one."""
    return text.replace("teacher", run.teacher_word)


def _with_unit(value: float | None, *, digits: int, unit: str) -> str:
    return DASH if value is None else decimal(value, digits) + unit


def _milliseconds(value: float | None) -> str:
    return DASH if value is None else f"{three_digits(value)} ms"


_PERCENT = partial(_with_unit, digits=2, unit="%")
_METRICS = (
    Metric("Top-1", "top1", _PERCENT, ("lower", "higher"), is_quality=True, is_share=True),
    Metric("Top-5", "top5", _PERCENT, ("lower", "higher"), is_quality=True, is_share=True),
    Metric("NLL", "nll", partial(decimal, digits=3), ("lower", "higher"), is_quality=True, is_error=True),
    Metric("ECE", "ece", partial(decimal, digits=4), ("lower", "higher"), is_quality=True, is_error=True),
    Metric("Agreement", "agreement", _PERCENT, ("lower", "higher"), is_quality=True),
    Metric("KL to teacher", "teacher_kl", partial(decimal, digits=3), ("lower", "higher"), is_quality=True),
    Metric("Parameters", "parameters", whole, ("fewer", "more")),
    Metric("Multiply-adds", "multiply_adds", scaled, ("fewer", "more")),
    Metric("Size on disk", "bytes", partial(scaled, unit="B"), ("smaller", "larger")),
    Metric("Latency, batch 1", 1, _milliseconds, ("lower", "higher")),
    Metric("Latency, batch 64", 64, _milliseconds, ("lower", "higher")),
)


_MOST_SUPERCLASSES = 24  # that fit into a table
_TOKENS = "Time of one forward pass over one text of so many tokens."


def _of_lengths(runs: Sequence[RunData]) -> list[Metric]:
    """The rows of latencies by length, of texts."""
    lengths = sorted({tokens for run in runs for each in run.latency_by_tokens.values() for tokens in each})
    return [Metric(f"Latency, {each} tokens", (each,), _milliseconds, ("lower", "higher")) for each in lengths]


def _table_notes(run: RunData, others: Sequence[tuple[str, RunData]]) -> list[str]:
    """The notes below the comparison table."""
    notes = []
    gap = top1_gap(run)
    if gap is not None:
        notes.append(f"Top-1, student less {run.teacher_word}: {_interval(gap)}.")
    for name, each in others:
        found = top1_gap(run, each)
        if found is not None:
            notes.append(f"Top-1, student less “{name}”: {_interval(found)}.")
    if gap is not None or others:
        notes.append(
            "± is the 95% interval over the draw of test $images alone. One run shows no spread between seeds."
        )
    notes += [
        f"“{name}” had another teacher: its agreement and KL refer to that one."
        for name, each in others
        if words.teachers_differ(run, each)
    ]
    threads = sorted({count for each in (run, *(each for _, each in others)) for count in each.latency_threads})
    if run.latency.get("student"):
        one, more = "one CPU thread, in processor time", f"{listed(threads)} CPU threads"
        where = (one if threads == [1] else more) if threads else "the machine that ran it"
        notes.append(f"Latency is the least of repeated passes on {where}; between machines it cannot be compared.")
        alike = [f"“{name}”" for name, each in others if _shares_latency(each, run)]
        if alike:
            notes.append(f"The latency of {listed(alike)} is the student’s: the same architecture, timed once.")
    else:
        notes.append("Latency was not measured in this run.")
    return notes


def _interval(gap: TopOneGap) -> str:
    return f"{signed(gap.points, 2)} ± {decimal(gap.margin, 2)} points"


def notices(run: RunData, others: Sequence[tuple[str, RunData]]) -> list[Values]:
    """For each other run, what keeps the comparison from being an equal one."""
    found = []
    for name, each in others:
        differ = words.differences(run, each)
        if differ:
            because = "; ".join(words.reasons(run, each))
            text = f"{because[0].upper()}{because[1:]}." if because else ""
            by_design = words.another_seed(run, each)
            if by_design:
                text += " This shows the effect of the seed, not of a setting."
            found.append(Values(name=name, differ=", ".join(differ), because=text, by_design=by_design))
    return found


def _hash_rows(runs: Sequence[RunData]) -> list[Values]:
    """The hashes that prove what runs had in common."""
    covers = {
        "data": "$images and labels",
        "init": "the student’s initial weights",
        "order": "the order of $images actually used",
        "views": "the augmentation and the views actually used",
        "budget": "steps, batch size, accumulation, evaluation split",
        "threads": "CPU threads",
        "recipe": "every field of the recipe",
    }
    hashes = [
        {"data": run.summary.data.fingerprint, **run.summary.hashes.by_name, "recipe": run.summary.recipe_hash}
        for run in runs
    ]
    rows = []
    for key, what in covers.items():
        values = [held[key] or DASH for held in hashes]
        if any(text != DASH for text in values):
            rows.append(Values(name=key, covers=what, cells=tuple((text, text != values[0]) for text in values)))
    return rows
