"""What stands beside what: names that tell runs apart, what differs between them, differences and their margins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stillroom.report.measures import margin_of_counts, paired_margin
from stillroom.report.read import RunFolder

# In the order of how much a difference matters.
_HASHES = {
    "budget": "budget (steps, batch size, accumulation, evaluation split)",
    "init": "initial weights",
    "order": "order of images",
    "views": "augmentation views",
    "threads": "CPU threads",
}


@dataclass(frozen=True)
class Gap:
    """A difference of two top-1 accuracies in points, and half the 95% interval that the test images alone give it."""

    points: float
    margin: float

    @property
    def resolved(self) -> bool:
        """Whether the difference is larger than what another draw of test images would explain."""
        return abs(self.points) > self.margin


def names(runs: Sequence[RunFolder]) -> list[str]:
    """A name for each run that no other has: its own, with the seed or the folder where that is needed."""
    found = [run.name for run in runs]
    for detail in (lambda run: f"seed {run.seed}", lambda run: run.path.name, lambda run: str(run.path)):
        for name in {name for name in found if found.count(name) > 1}:
            alike = [place for place, other in enumerate(found) if other == name]
            details = [detail(runs[place]) for place in alike]
            if len(set(details)) > 1:
                for place, told in zip(alike, details, strict=True):
                    found[place] = f"{name}, {told}"
    return found


def top1_gap(run: RunFolder, other: RunFolder | None = None) -> Gap | None:
    """The student's top-1 less the other run's student's, or less its own teacher's.

    Returns:
        None where there is no teacher. The margin is that of paired images where both answered the same ones.
    """
    facts = other.student if other is not None else run.teacher
    if facts is None:
        return None
    margin = _paired(run, other)
    if margin is None:
        margin = margin_of_counts(run.student.top1, facts.top1, min(run.student.count, facts.count))
    return Gap(run.student.top1 - facts.top1, margin)


def _paired(run: RunFolder, other: RunFolder | None) -> float | None:
    mine, theirs = run.predictions, (other or run).predictions
    if mine is None or theirs is None or not np.array_equal(mine.labels, theirs.labels):
        return None
    logits = theirs.student_logits if other is not None else mine.teacher_logits
    if logits is None or logits.shape != mine.student_logits.shape:
        return None
    return paired_margin(mine.student_logits.argmax(axis=1) == mine.labels, logits.argmax(axis=1) == mine.labels)


def differences(run: RunFolder, other: RunFolder) -> list[str]:
    """What keeps a comparison of two runs from being an equal one, in words; nothing where all hashes agree."""
    found = []
    if run.data["fingerprint"] != other.data["fingerprint"] or run.data["name"] != other.data["name"]:
        found.append("data")
    found += [words for key, words in _HASHES.items() if run.hashes.get(key) != other.hashes.get(key)]
    if run.precision != other.precision:
        found.append(f"precision ({run.precision or 'unknown'} and {other.precision or 'unknown'})")
    return found


def reasons(run: RunFolder, other: RunFolder) -> list[str]:
    """What explains such differences: other data, another model, another seed, another length."""
    found = []
    if run.data["name"] != other.data["name"]:
        found.append(f"the data are {run.data['name']} and {other.data['name']}")
    elif run.data["fingerprint"] != other.data["fingerprint"]:
        found.append("the two data sets go by one name but hold different images or labels")
    if run.student.model != other.student.model:
        found.append(f"the students are {run.student.model} and {other.student.model}")
    if run.seed != other.seed:
        found.append(
            f"the seeds are {run.seed} and {other.seed}, which by design changes initial weights and order of images"
        )
    if run.steps != other.steps:
        found.append(f"one ran {run.steps:,} steps, the other {other.steps:,}")
    return found


def another_seed(run: RunFolder, other: RunFolder) -> bool:
    """Whether the other run is the same recipe with another seed, and nothing else differs than what a seed changes."""
    return (
        run.seed != other.seed
        and bool(run.recipe)
        and {**run.recipe, "seed": None} == {**other.recipe, "seed": None}
        and set(differences(run, other)) <= {_HASHES["init"], _HASHES["order"]}
    )


def teachers_differ(run: RunFolder, other: RunFolder) -> bool:
    """Whether both runs had a teacher, and not the same one."""
    if run.teacher is None or other.teacher is None:
        return False
    return (run.teacher.model, run.teacher.correct) != (other.teacher.model, other.teacher.correct)
