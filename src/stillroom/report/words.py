"""The verdict in plain English, composed from the numbers and claiming no more than they do."""

from __future__ import annotations

from dataclasses import dataclass

from stillroom.report.compare import Gap, another_seed, differences, top1_gap
from stillroom.report.formats import decimal, scaled, versus, whole
from stillroom.report.read import ModelFacts, RunFolder


@dataclass(frozen=True)
class Verdict:
    """One sentence on the run, one on each run beside it, and how far the numbers carry."""

    headline: str
    against: tuple[str, ...]
    caveat: str


def verdict(run: RunFolder, others: list[tuple[str, RunFolder]]) -> Verdict:
    """Compose the verdict.

    Args:
        run: the run the report is about.
        others: the runs beside it, each with its name.
    """
    return Verdict(
        headline=headline(run),
        against=tuple(against(run, name, other) for name, other in others),
        caveat=caveat(run, with_others=bool(others)),
    )


def headline(run: RunFolder) -> str:
    """The student against its teacher, in one sentence."""
    gap = top1_gap(run)
    if gap is None or run.teacher is None:
        return _alone(run)
    student, teacher = run.student, run.teacher
    cost = costs(teacher, student)
    tail = f", with {cost}." if cost else "."
    levels = f"{decimal(student.top1)}% against {decimal(teacher.top1)}%"
    points = _points(gap)
    if gap.points == 0:
        return f"The student matches its teacher’s top-1 ({decimal(student.top1)}%){tail}"
    if not gap.resolved:
        side = "above" if gap.points > 0 else "below"
        return (
            f"The student is level with its teacher on top-1 ({levels}: {points} {side}, "
            f"too little for {whole(student.count)} test images to tell apart){tail}"
        )
    if gap.points > 0:
        return f"The student beats its teacher on top-1 ({levels}: {points} gained){tail}"
    kept = decimal(100 * student.top1 / teacher.top1)
    return f"The student keeps {kept}% of its teacher’s top-1 ({levels}: {points} lost){tail}"


def _alone(run: RunFolder) -> str:
    student = run.student
    size = [
        f"{scaled(student.parameters)} parameters" if student.parameters else "",
        f"{scaled(student.multiply_adds)} multiply-adds an image" if student.multiply_adds else "",
    ]
    cost = join([part for part in size if part])
    return (
        f"The student reaches {decimal(student.top1)}% top-1 "
        f"({whole(student.correct)} of {whole(student.count)} test images)"
        + (f" with {cost}" if cost else "")
        + "; it had no teacher to be measured against."
    )


def costs(teacher: ModelFacts, student: ModelFacts) -> str:
    """What the student saves or costs, in words.

    Returns:
        Such as ``11× fewer parameters, 10× fewer multiply-adds and 4.2× lower latency at batch 1``; empty where
        nothing was measured.
    """
    parts = [
        (versus(teacher.parameters, student.parameters, "fewer", "more"), "parameters"),
        (versus(teacher.multiply_adds, student.multiply_adds, "fewer", "more"), "multiply-adds"),
        (versus(teacher.latency.get(1), student.latency.get(1), "lower", "higher"), "latency at batch 1"),
    ]
    return join([f"{told} {what}" for told, what in parts if told])


def against(run: RunFolder, name: str, other: RunFolder) -> str:
    """The student against another run's student, in one sentence; a loss is said as plainly as a gain."""
    gap = top1_gap(run, other)
    assert gap is not None  # a run always has a student
    if another_seed(run, other):
        return _other_seed(gap, other)
    told = describe(run, name, other)
    level = f"{decimal(other.student.top1)}%"
    unequal = ", not an equal comparison" if differences(run, other) else ""
    bound = f"(one seed each: no interval{unequal})"
    if gap.points == 0:
        return f"Level with {told}, {level} {bound}."
    unresolved = "" if gap.resolved else ", too little for the test images to tell apart"
    if gap.points > 0:
        return f"{_points(gap)} above {told}, {level}{unresolved} {bound}."
    if gap.resolved and run.taught and not other.taught and same_student(run, other):
        return (
            f"Worse than {told}: {_points(gap)} below its {level} {bound}. "
            "In this pair of runs, teaching cost accuracy instead of adding it."
        )
    worse = "Worse than" if gap.resolved else "Below"
    return f"{worse} {told}: {_points(gap)} below its {level}{unresolved} {bound}."


def _other_seed(gap: Gap, other: RunFolder) -> str:
    side = "the same" if gap.points == 0 else f"{_points(gap)} {'less' if gap.points > 0 else 'more'}"
    return (
        f"The same recipe with seed {other.seed} reaches {decimal(other.student.top1)}%, {side}: "
        "a first look at the spread between seeds, no interval."
    )


def same_student(run: RunFolder, other: RunFolder) -> bool:
    """Whether both runs trained a student of the same model and size."""
    return (run.student.model, run.student.parameters) == (other.student.model, other.student.parameters)


def describe(run: RunFolder, name: str, other: RunFolder) -> str:
    """What the other run is, in words."""
    if same_student(run, other):
        if run.taught and not other.taught:
            return f"the same student from labels alone (“{name}”)"
        if other.taught and not run.taught:
            return f"the same student with a teacher (“{name}”)"
    return f"“{name}”"


def caveat(run: RunFolder, *, with_others: bool) -> str:
    """How far the numbers carry."""
    runs = "Each number comes from one run with one seed" if with_others else f"One run, one seed ({run.seed})"
    gap = top1_gap(run)
    images = (
        f" The gap to the teacher is {decimal(abs(gap.points))} ± {decimal(gap.margin)} points over the draw of "
        "test images (95%), seeds not counted."
        if gap is not None and not with_others
        else ""
    )
    return f"{runs}: how far another seed would move it is not known.{images}"


def join(parts: list[str]) -> str:
    """Parts as a list in a sentence.

    >>> join(["a", "b", "c"]), join(["a"])
    ('a, b and c', 'a')
    """
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1] if parts else ""


def _points(gap: Gap) -> str:
    text = decimal(abs(gap.points))
    # A difference of one image in ten thousand is not "0.0 points".
    text = decimal(abs(gap.points), 2) if text == "0.0" else text
    return f"{text} point" if text == "1.0" else f"{text} points"
