"""A run compared with its teacher and with other runs: what differs, by how much, and what the page may claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stillroom.report.formats import decimal, scaled, short, versus, whole
from stillroom.report.run.data import RunData
from stillroom.schema.continual import FinishedRecord
from stillroom.schema.predictions import margin_of_counts, paired_margin
from stillroom.wording import counted, listed

# In the order of how much a difference matters.
_HASHES = {
    "budget": "budget (steps, batch size, accumulation, evaluation split)",
    "init": "initial weights",
    "order": "order of $images",
    "views": "augmentation views",
    "threads": "CPU threads",
}


@dataclass(frozen=True)
class TopOneGap:
    """A difference of two top-1 accuracies in points, and half the 95% interval that the test images alone give it."""

    points: float
    margin: float

    @property
    def resolved(self) -> bool:
        """Whether the difference is larger than what another draw of test images would explain."""
        return abs(self.points) > self.margin


def run_names(runs: Sequence[RunData]) -> list[str]:
    """A name for each run that no other has: its own, with the seed or the folder where that is needed."""
    found = [run.name for run in runs]
    for details in (_seeds, _folders):
        for name in {name for name in found if found.count(name) > 1}:
            alike = [place for place, another in enumerate(found) if another == name]
            texts = details([runs[place] for place in alike])
            if len(set(texts)) > 1:
                for place, text in zip(alike, texts, strict=True):
                    found[place] = f"{name}, {text}"
    return found


def _seeds(runs: Sequence[RunData]) -> list[str]:
    return [f"seed {run.summary.seed}" for run in runs]


def _folders(runs: Sequence[RunData]) -> list[str]:
    """The runs' folders, from the last part of their paths on that differs."""
    parts = [run.path.absolute().parts for run in runs]
    depth = 1
    while depth < max(map(len, parts)) and len({path[-depth:] for path in parts}) < len(parts):
        depth += 1
    return [f"folder {Path(*path[-depth:])}" for path in parts]


def top1_gap(run: RunData, other: RunData | None = None) -> TopOneGap | None:
    """The student's top-1 less the other run's student's, or less its own teacher's.

    Returns:
        None where there is no teacher. The margin is that of paired images where both answered the same ones.
    """
    scores = other.student if other is not None else run.teacher
    if scores is None:
        return None
    margin = _paired(run, other)
    if margin is None:
        margin = margin_of_counts(run.student.top1, scores.top1, min(run.student.count, scores.count))
    return TopOneGap(run.student.top1 - scores.top1, margin)


def _paired(run: RunData, other: RunData | None) -> float | None:
    mine, theirs = run.predictions, (other or run).predictions
    if mine is None or theirs is None or not np.array_equal(mine.labels, theirs.labels):
        return None
    logits = theirs.student_logits if other is not None else mine.teacher_logits
    if logits is None or logits.shape != mine.student_logits.shape:
        return None
    return paired_margin(mine.student_logits.argmax(axis=1) == mine.labels, logits.argmax(axis=1) == mine.labels)


def differences(run: RunData, other: RunData) -> list[str]:
    """What keeps a comparison of two runs from being an equal one, in words; nothing where all hashes agree."""
    mine, theirs = run.summary, other.summary
    found = []
    if (mine.data.fingerprint, mine.data.name) != (theirs.data.fingerprint, theirs.data.name):
        found.append("data")
    found += [words for key, words in _HASHES.items() if getattr(mine.hashes, key) != getattr(theirs.hashes, key)]
    if mine.precision != theirs.precision:
        found.append(f"precision ({mine.precision or 'unknown'} and {theirs.precision or 'unknown'})")
    return found


def reasons(run: RunData, other: RunData) -> list[str]:
    """What explains such differences: other data, another model, another seed, another length."""
    mine, theirs = run.summary, other.summary
    found = []
    if mine.data.name != theirs.data.name:
        found.append(f"the data are {mine.data.name} and {theirs.data.name}")
    elif mine.data.fingerprint != theirs.data.fingerprint:
        found.append("the two data sets go by one name but hold different $images or labels")
    if mine.model != theirs.model:
        found.append(f"the students are {mine.model} and {theirs.model}")
    if mine.seed != theirs.seed:
        seeds = f"the seeds are {mine.seed} and {theirs.seed}"
        found.append(f"{seeds}, which by design changes initial weights and order of $images")
    if mine.steps != theirs.steps:
        found.append(f"one ran {mine.steps:,} steps, the other {theirs.steps:,}")
    return found


def another_seed(run: RunData, other: RunData) -> bool:
    """Whether the other run is the same recipe with another seed, and nothing else differs than what a seed changes."""
    return (
        run.summary.seed != other.summary.seed
        and bool(run.recipe)
        and {**run.recipe, "seed": None} == {**other.recipe, "seed": None}
        and set(differences(run, other)) <= {_HASHES["init"], _HASHES["order"]}
    )


def teachers_differ(run: RunData, other: RunData) -> bool:
    """Whether both runs had a teacher, and not the same one."""
    if run.teacher is None or other.teacher is None:
        return False
    return (run.teacher.model, run.teacher.correct) != (other.teacher.model, other.teacher.correct)


def labels_run(run: RunData, others: Sequence[RunData]) -> RunData | None:
    """Of other runs the one that says what distilling brought: the same student and data, from labels alone.

    Of several the one that differs in least else; None of a run that was not distilled.
    """
    alike = [
        other
        for other in others
        if run.distilled
        and not other.distilled
        and same_student(run, other)
        and run.summary.data.fingerprint == other.summary.data.fingerprint
    ]
    return min(alike, key=lambda other: len(differences(run, other)), default=None)


def headline(run: RunData, labels: RunData | None = None) -> str:
    """What the run shows, in one sentence or two that claim no more than the numbers do.

    Args:
        run: what the page is about.
        labels: the same student from labels alone; left out: the student is compared with its teacher, which says
            nothing about what distilling brought.
    """
    if run.incremental is not None:
        return _over_tasks(run.incremental)
    if labels is not None:
        return _against_labels(run, labels)
    gap = top1_gap(run)
    if gap is None or run.teacher is None:
        return _without_teacher(run)
    student, teacher = run.student, run.teacher
    cost = costs(run)
    tail = f", with {cost}." if cost else "."
    levels = f"{decimal(student.top1)}% against {decimal(teacher.top1)}%"
    points, its = _points(gap), _teacher_in_words(run)
    if gap.points == 0:
        return f"The student matches the top-1 of {its} ({decimal(student.top1)}%){tail}"
    if not gap.resolved:
        side = "above" if gap.points > 0 else "below"
        return (
            f"The student’s top-1 is not significantly {side} that of {its} ({levels}: {points} on "
            f"{whole(student.count)} test $images){tail}"
        )
    if gap.points > 0:
        return f"The student beats {its} on top-1 ({levels}: {points} gained){tail}"
    if run.teacher_word == "peer":
        return f"The student’s top-1 is {points} below that of {its} ({levels}){tail}"
    kept = decimal(100 * student.top1 / teacher.top1)
    return f"The student keeps {kept}% of the top-1 of {its} ({levels}: {points} lost){tail}"


def _against_labels(run: RunData, labels: RunData) -> str:
    """What distilling brought, then what the student costs less than its teacher."""
    gap = top1_gap(run, labels)
    assert gap is not None  # a run always has a student
    levels = (
        f"{decimal(run.student.top1)}% against {decimal(labels.student.top1)}% of the same student from labels alone"
    )
    if gap.points == 0:
        first = f"Distilling changed nothing in top-1: {levels}."
    elif not gap.resolved:
        images = whole(min(run.student.count, labels.student.count))
        first = f"Distilling made no difference to top-1 that {images} test $images can show: {levels}."
    else:
        first = f"Distilling {'gained' if gap.points > 0 else 'cost'} {_points(gap)} of top-1: {levels}."
    if run.teacher is None:
        return first
    cost = costs(run)
    its = _teacher_in_words(run).removeprefix("its ")
    return f"{first} The {its} has {decimal(run.teacher.top1)}%" + (f"; the student has {cost}." if cost else ".")


def _teacher_in_words(run: RunData) -> str:
    """The teacher that the student is compared with."""
    word = run.teacher_word
    return f"its {word}" if len(run.summary.teachers) < 2 else f"its best {word} “{run.summary.reference}”"


def _over_tasks(record: FinishedRecord) -> str:
    """What is left of classes that came in tasks, and what was forgotten."""
    final, lost = record.metrics.final, record.metrics.forgetting
    change = f"lost {decimal(lost)}" if lost > 0 else f"gained {decimal(-lost)}"
    return (
        f"After {counted(len(record.tasks), 'task')} the student’s accuracy on all {len(record.class_order)} classes "
        f"is {decimal(final)}%, the mean over tasks; since its best on each, old tasks {change} points on average."
    )


def _without_teacher(run: RunData) -> str:
    student = run.student
    size = [
        f"{scaled(student.parameters)} parameters" if student.parameters else "",
        f"{scaled(student.multiply_adds)} multiply-adds $an_image" if student.multiply_adds else "",
    ]
    cost = listed(part for part in size if part)
    return (
        f"The student reaches {decimal(student.top1)}% top-1 "
        f"({whole(student.correct)} of {whole(student.count)} test $images)"
        + (f" with {cost}" if cost else "")
        + f"; {_no_comparison(run)}."
    )


def _no_comparison(run: RunData) -> str:
    teacher = run.summary.teacher
    if teacher is None or not run.distilled:
        return "it had no teacher to compare with"
    if teacher.follows_student:
        return f"it learned from the {teacher.model.replace('the student', 'its own weights')}"
    return "its teacher has no scores to compare with"


def costs(run: RunData) -> str:
    """The student's costs compared with its teacher's, in words.

    Returns:
        Such as ``11× fewer parameters, 10× fewer multiply-adds and 4.2× lower latency at batch 1``; empty where
        nothing was measured.
    """
    if run.teacher is None:
        return ""
    teacher, student = run.teacher, run.student
    before, after = (run.latency.get(who, {}).get(1) for who in (run.summary.reference or "teacher", "student"))
    parts = [
        (versus(teacher.parameters, student.parameters, "fewer", "more"), "parameters"),
        (versus(teacher.multiply_adds, student.multiply_adds, "fewer", "more"), "multiply-adds"),
        (versus(before, after, "lower", "higher"), "latency at batch 1"),
    ]
    return listed(f"{ratio} {what}" for ratio, what in parts if ratio)


def against(run: RunData, name: str, other: RunData) -> str:
    """The student against another run's student, in one sentence; a loss is said as plainly as a gain."""
    gap = top1_gap(run, other)
    assert gap is not None  # a run always has a student
    if another_seed(run, other):
        side = "the same" if gap.points == 0 else f"{_points(gap)} {'less' if gap.points > 0 else 'more'}"
        return (
            f"The same recipe with seed {other.summary.seed} reaches {decimal(other.student.top1)}%, {side}: "
            "a first estimate of the spread between seeds, no interval."
        )
    what = describe(run, name, other)
    level = f"{decimal(other.student.top1)}%"
    unequal = ", not an equal comparison" if differences(run, other) else ""
    bound = f"(one seed each: no interval{unequal})"
    if gap.points == 0:
        return f"The same accuracy as {what}, {level} {bound}."
    unresolved = "" if gap.resolved else ", not significant with this many test $images"
    if gap.points > 0:
        return f"{_points(gap)} above {what}, {level}{unresolved} {bound}."
    if gap.resolved and run.distilled and not other.distilled and same_student(run, other):
        return (
            f"Worse than {what}: {_points(gap)} below its {level} {bound}. "
            "In this pair of runs, distillation reduced accuracy."
        )
    worse = "Worse than" if gap.resolved else "Below"
    return f"{worse} {what}: {_points(gap)} below its {level}{unresolved} {bound}."


def same_student(run: RunData, other: RunData) -> bool:
    """Whether both runs trained a student of the same model and size."""
    mine, theirs = run.summary, other.summary
    return (mine.model, mine.parameters) == (theirs.model, theirs.parameters)


def describe(run: RunData, name: str, other: RunData) -> str:
    """What the other run is, in words."""
    if same_student(run, other):
        if run.distilled and not other.distilled:
            return f"the same student trained on labels alone (“{name}”)"
        if other.distilled and not run.distilled:
            return f"the same student with a teacher (“{name}”)"
    return f"“{name}”"


def caveat(run: RunData, *, with_others: bool) -> str:
    """How far the numbers carry."""
    runs = "Each number comes from one run with one seed" if with_others else f"One run, one seed ({run.summary.seed})"
    gap = top1_gap(run)
    images = (
        f" The gap to the {run.teacher_word} is {decimal(abs(gap.points))} ± {decimal(gap.margin)} points over the "
        "draw of test $images (95%), seeds not counted."
        if gap is not None and not with_others
        else ""
    )
    return f"{runs}: the spread between seeds is unknown.{images}"


def missing_labels(run: RunData, labels: RunData | None) -> str:
    """How to learn what distilling brought; empty where a run says it, or where nothing was distilled."""
    if not run.distilled or labels is not None or run.incremental is not None or run.summary.data.labelled == 0:
        return ""
    train = "stillroom train recipe.yaml 'losses=[{name: cross_entropy}]' --out LABELS"
    compare = "stillroom report RUN LABELS"
    if run.in_python:
        train, compare = "labels = sr.distill(None, student, train, test, …)", "run.report(labels)"
    return (
        "What distilling itself brought is not known from this run: train the same student from labels alone, "
        f"`{train}`, and compare both, `{compare}`."
    )


def _side(run: RunData) -> str:
    return "with its peer" if run.teacher_word == "peer" else "from"


def _models(run: RunData) -> str:
    return listed(one.model for one in run.summary.teachers.values())


def _points(gap: TopOneGap) -> str:
    text = decimal(abs(gap.points))
    # A difference of one image in ten thousand is not "0.0 points".
    text = decimal(abs(gap.points), 2) if text == "0.0" else text
    return f"{text} point" if text == "1.0" else f"{text} points"


def facts(run: RunData) -> list[str]:
    """The run in keywords: data, models, losses, length, seed, precision."""
    summary, labelled = run.summary, run.summary.data.labelled
    some = "" if labelled is None else f", {whole(labelled)} with a label" if labelled else ", none with a label"
    found = [
        f"{summary.data.name}, {whole(summary.data.train)} training $images{some}",
        summary.model + (f" {_side(run)} {_models(run)}" if run.distilled and run.summary.teachers else ""),
    ]
    terms = losses(run.recipe.get("losses"))
    if terms:
        found.append(terms)
    found += [f"{counted(summary.epochs, 'epoch')}, {counted(summary.steps, 'step')}", f"seed {summary.seed}"]
    if summary.precision:
        found.append(summary.precision)
    if (stopped := summary.stopped) is not None:
        found.append(
            f"stopped after epoch {stopped.after:g} of {stopped.of:g}: no better on the validation $images for "
            f"{counted(stopped.patience, 'evaluation')}, the learning rate not at its end"
        )
    if summary.trained is not None:
        found.append(f"trained {listed(summary.trained.modules)} alone, the rest frozen")
    return found


def losses(terms: Any) -> str:
    """The loss as a sum in words; empty where the recipe does not have it.

    >>> losses([{"name": "cross_entropy", "weight": 0.1}, {"name": "kl", "weight": 0.9, "temperature": 4.0}])
    '0.1 cross_entropy + 0.9 kl (temperature 4)'
    """
    parts = []
    for term in terms if isinstance(terms, list) else ():
        if isinstance(term, dict) and isinstance(term.get("name"), str):
            options = [
                f"{key.replace('_', ' ')} {_option(value)}"
                for key, value in term.items()
                if key not in ("name", "weight")
                and isinstance(value, int | float | str | dict | list)
                and value is not False
            ]
            weight = term.get("weight", 1.0)
            if isinstance(weight, dict):
                weight = f"{_value(weight.get('start'))}→{_value(weight.get('end'))}"
            parts.append(f"{_value(weight)} {term['name']}" + (f" ({', '.join(options)})" if options else ""))
    return " + ".join(parts)


def _option(value: Any) -> str:
    """An option's value in words: taps by their names, a target with its own options.

    >>> _option(["layer2", {"teacher": "layer3", "student": "blocks.1"}]), _option({"name": "top_k", "k": 5})
    ('layer2, layer3 with blocks.1', 'top_k k 5')
    """
    if isinstance(value, list):
        return ", ".join(_option(item) for item in value)
    if isinstance(value, dict):
        if {"teacher", "student"} == set(value):
            return f"{_value(value['teacher'])} with {_value(value['student'])}"
        rest = [f"{key.replace('_', ' ')} {_value(item)}" for key, item in value.items() if key != "name"]
        return " ".join([*([_value(value["name"])] if "name" in value else []), *rest])
    return _value(value)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, int | float) else short(str(value), 40)
