"""The rows of the page's tables: teacher and student side by side, the proof of equality, the metrics' meanings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stillroom.report.compare import Gap, another_seed, differences, reasons, teachers_differ, top1_gap
from stillroom.report.formats import DASH, decimal, scaled, signed, three_digits, versus, whole
from stillroom.report.read import ModelFacts, RunFolder
from stillroom.report.words import join

GLOSSARY = {
    "Top-1": "Share of test images whose most probable class is the true one. Higher is better.",
    "Top-5": "Share of test images whose true class is among the five most probable. Higher is better.",
    "NLL": "Negative log-likelihood: mean of −log of the probability given to the true class, in nats. "
    "Lower is better; it punishes confident mistakes.",
    "ECE": "Expected calibration error: how far confidence is from accuracy on average over 15 bins of equal width, "
    "0 to 1. Lower is better.",
    "Agreement": "Share of test images on which student and teacher make the same top guess, right or wrong.",
    "KL to teacher": "Mean Kullback-Leibler divergence from the teacher’s probabilities to the student’s at "
    "temperature 1, in nats. 0 means the same answers.",
    "Parameters": "Numbers learnt by the model.",
    "Multiply-adds": "Multiplications with an addition for one image; the usual measure of compute.",
    "Size on disk": "Bytes of the weights in their file (1 kB = 1,000 bytes).",
    "Latency, batch 1": "Time for one image through the model, in milliseconds, on the machine under Environment.",
    "Latency, batch 64": "Time for 64 images at once, in milliseconds, on the machine under Environment.",
}


@dataclass(frozen=True)
class Row:
    """One line of the comparison: the metric, its meaning, and a cell for each column."""

    metric: str
    meaning: str
    teacher: str
    student: str
    versus: str
    others: tuple[str, ...]
    starts_group: bool = False


@dataclass(frozen=True)
class Notice:
    """Why a comparison is not an equal one."""

    name: str
    differ: str
    because: str
    by_design: bool


Read = Callable[[ModelFacts], float | None]
Write = Callable[[float | None], str]


def side_by_side(run: RunFolder, others: Sequence[RunFolder]) -> list[Row]:
    """The comparison table, in the order of the glossary; rows that no run has a number for are left out."""
    percent = _suffixed(2, "%")
    quality: list[tuple[str, Read, Write]] = [
        ("Top-1", lambda facts: facts.top1, percent),
        ("Top-5", lambda facts: facts.top5, percent),
        ("NLL", lambda facts: facts.nll, lambda value: decimal(value, 3)),
        ("ECE", lambda facts: facts.ece, lambda value: decimal(value, 4)),
        ("Agreement", lambda facts: facts.agreement, percent),
        ("KL to teacher", lambda facts: facts.teacher_kl, lambda value: decimal(value, 3)),
    ]
    cost: list[tuple[str, Read, Write, str, str]] = [
        ("Parameters", lambda facts: facts.parameters, whole, "fewer", "more"),
        ("Multiply-adds", lambda facts: facts.multiply_adds, scaled, "fewer", "more"),
        ("Size on disk", lambda facts: facts.bytes, lambda value: scaled(value, "B"), "smaller", "larger"),
        ("Latency, batch 1", lambda facts: facts.latency.get(1), _milliseconds, "lower", "higher"),
        ("Latency, batch 64", lambda facts: facts.latency.get(64), _milliseconds, "lower", "higher"),
    ]
    rows = []
    for metric, read, write in quality:
        teacher = read(run.teacher) if run.teacher is not None else None
        student = read(run.student)
        told = _quality_versus(metric, teacher, student)
        cells = [read(other.student) for other in others]
        if any(value is not None for value in (teacher, student, *cells)):
            rows.append(_row(metric, write, teacher, student, told, cells))
    for place, (metric, read, write, less, more) in enumerate(cost):
        teacher = read(run.teacher) if run.teacher is not None else None
        student = read(run.student)
        told = versus(teacher, student, less, more) or DASH
        cells = [read(other.student) for other in others]
        rows.append(_row(metric, write, teacher, student, told, cells, starts_group=place == 0))
    return rows


def _row(
    metric: str,
    write: Write,
    teacher: float | None,
    student: float | None,
    told: str,
    others: Sequence[float | None],
    *,
    starts_group: bool = False,
) -> Row:
    return Row(
        metric=metric,
        meaning=GLOSSARY[metric],
        teacher=write(teacher),
        student=write(student),
        versus=told,
        others=tuple(write(value) for value in others),
        starts_group=starts_group,
    )


def _quality_versus(metric: str, teacher: float | None, student: float | None) -> str:
    if teacher is None or student is None:
        return DASH
    if metric in ("Top-1", "Top-5"):
        return f"{signed(student - teacher, 2)} points"
    return versus(teacher, student, "lower", "higher") or DASH


def _suffixed(digits: int, suffix: str) -> Write:
    return lambda value: DASH if value is None else decimal(value, digits) + suffix


def _milliseconds(value: float | None) -> str:
    return DASH if value is None else f"{three_digits(value)} ms"


def table_notes(run: RunFolder, others: Sequence[tuple[str, RunFolder]]) -> list[str]:
    """What a reader of the comparison table should know beside it."""
    notes = []
    gap = top1_gap(run)
    if gap is not None:
        notes.append(f"Top-1, student less teacher: {_interval(gap)}.")
    for name, other in others:
        found = top1_gap(run, other)
        if found is not None:
            notes.append(f"Top-1, student less “{name}”: {_interval(found)}.")
    if gap is not None or others:
        notes.append(
            "± is the 95% interval over the draw of test images alone. For the spread between seeds, one run has none."
        )
    notes += [
        f"“{name}” had another teacher: its agreement and KL are to that one."
        for name, other in others
        if teachers_differ(run, other)
    ]
    threads = sorted(
        {number for each in (run, *(other for _, other in others)) for number in each.latency_threads.values()}
    )
    if run.student.latency:
        told = f", with {join([str(number) for number in threads])} CPU threads" if threads and threads != [1] else ""
        told = ", with 1 CPU thread" if threads == [1] else told
        notes.append(f"Latency is of the machine that ran it{told}; between machines it cannot be compared.")
    else:
        notes.append("Latency was not measured in this run.")
    return notes


def _interval(gap: Gap) -> str:
    return f"{signed(gap.points, 2)} ± {decimal(gap.margin, 2)} points"


def notices(run: RunFolder, others: Sequence[tuple[str, RunFolder]]) -> list[Notice]:
    """For each run beside this one, what keeps the comparison from being an equal one."""
    found = []
    for name, other in others:
        differ = differences(run, other)
        if differ:
            because = "; ".join(reasons(run, other))
            told = f"{because[0].upper()}{because[1:]}." if because else ""
            by_design = another_seed(run, other)
            if by_design:
                told += " This shows how far a seed moves the result, not what a setting does."
            found.append(Notice(name, ", ".join(differ), told, by_design))
    return found


@dataclass(frozen=True)
class HashRow:
    """One proof of equality: its name, what it covers, a cell for each run, and which cells differ from the first."""

    name: str
    covers: str
    cells: tuple[tuple[str, bool], ...]


def hash_rows(runs: Sequence[RunFolder]) -> list[HashRow]:
    """The hashes that prove what runs had in common."""
    covers = {
        "data": "images and labels",
        "init": "the student’s initial weights",
        "order": "the order of images actually used",
        "views": "the augmentation and the views actually used",
        "budget": "steps, batch size, accumulation, evaluation split",
        "threads": "CPU threads",
        "recipe": "every field of the recipe",
    }

    def value(run: RunFolder, key: str) -> str:
        if key == "data":
            return str(run.data["fingerprint"] or DASH)
        return (run.recipe_hash if key == "recipe" else run.hashes.get(key)) or DASH

    rows = []
    for key, words in covers.items():
        values = [value(run, key) for run in runs]
        if any(text != DASH for text in values):
            rows.append(HashRow(key, words, tuple((text, text != values[0]) for text in values)))
    return rows
