"""What the student answers: how sure it is, which classes it lost, whose errors it makes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from stillroom.diagnose.checks.run import figures
from stillroom.diagnose.checks.run.learning import has_collapsed, skipped
from stillroom.diagnose.checks.run.reading import Case
from stillroom.diagnose.finding import Finding, Plot, Remedy, Verdict
from stillroom.schema.predictions import BINS, calibration, per_class, score_images

# Expected calibration errors: of probabilities that nobody may use, and of ones to look at.
WRONG, OFF = 0.10, 0.05
# Points below its teacher at which a student's answers tell of nothing but that.
FAR = 30.0
# Points that a class lost beyond what all classes lost.
LOST, SLIPPED = 20.0, 5.0
# Points by which a teacher is worse on a class than on all.
WEAK = 20.0
# Share of the student's errors that are its teacher's.
COPIED, OFTEN = 0.5, 0.25
# Per cent of all images that these errors must be, to be sick and to be suspect: whoever follows a good teacher well
# shares its few errors.
COSTS, MAY_COST = 10.0, 5.0
# Of a class that seems worse by chance, over all classes together.
_LEVEL = 0.05
_SHOWN = 12
# Logits that a temperature is fitted to.
_ENOUGH = 2_000_000
_NO_ANSWERS = "The run folder holds no predictions.safetensors."
_NO_TEACHER = "There is no teacher to compare with."


def _stopped(case: Case, check: str) -> Finding | None:
    if not case.finished:
        return skipped(check, "The run did not end.")
    if has_collapsed(case):
        return skipped(check, "The student learned nothing; see diverged.")
    if case.gap is not None and case.gap.points >= FAR:
        return skipped(check, f"The student is {case.gap.points:.0f} points below its teacher: first mend that.")
    return None


def miscalibrated(case: Case) -> Finding:
    """Whether the student's probabilities mean what they say."""
    check = "miscalibrated"
    stopped = _stopped(case, check)
    if stopped is not None:
        return stopped
    held, said = case.predictions, case.student_answers
    if held is None or said is None:
        return skipped(check, _NO_ANSWERS)
    mine = calibration(said.confidence, said.right)
    theirs = None
    if case.teacher_answers is not None:
        theirs = calibration(case.teacher_answers.confidence, case.teacher_answers.right).ece
    lean = float((said.confidence - said.right).mean())
    noise = _ece_of_chance(said.confidence)
    factor = temperature_of(held.student_logits, held.labels)
    after = calibration(score_images(held.student_logits / factor, held.labels).confidence, said.right).ece
    evidence = {
        "ece": mine.ece,
        "teacher_ece": theirs,
        "ece_of_perfect_probabilities": noise,
        "confidence_less_accuracy": lean,
        "temperature": factor,
        "ece_after_scaling": after,
    }
    threshold = (
        f"Sick: ECE of {WRONG:g} or more; suspect: {OFF:g} or more, and half as much again as the teacher's. Both only "
        "beyond twice what perfect probabilities would show on so few images. Top-1 does not depend on it."
    )
    source = "Guo et al., arXiv 1706.04599: one factor on the logits mends most of it and changes no answer."
    shares = (mine.counts > 0).nonzero()[0]
    plot = (
        Plot(
            "bars",
            "Confidence less accuracy, by confidence",
            tuple(f"{mine.edges[b]:.2f}–{mine.edges[b + 1]:.2f}" for b in shares),
            figures.rounded(100 * (mine.confidence - mine.accuracy)[shares], 2),
            "confidence",
            "points too sure",
        ),
    )
    manner = f"too {'sure' if lean > 0 else 'modest'} by {100 * abs(lean):.1f} points"
    verdict: Verdict = "ok"
    told = f"Its probabilities hold: ECE {mine.ece:.3f}" + (f" (teacher {theirs:.3f})." if theirs is not None else ".")
    seen = mine.ece >= 2 * noise
    if seen and mine.ece >= WRONG:
        verdict, told = "problem", f"Its probabilities cannot be used: ECE {mine.ece:.3f}, {manner}."
    elif seen and mine.ece >= OFF and (theirs is None or mine.ece >= 1.5 * theirs):
        verdict, told = "warning", f"Its probabilities are off: ECE {mine.ece:.3f}, {manner}."
    remedy = None
    if verdict != "ok":
        remedy = Remedy(
            "Divide the student's logits by a temperature before the softmax, fitted on images it did not learn from: "
            f"here about {factor:.2f}, which leaves an ECE of {after:.3f}. No answer changes."
        )
    return Finding(check, verdict, told, evidence, threshold, remedy, source, plot)


def _ece_of_chance(confidence: NDArray[np.float64]) -> float:
    """About the ECE that perfect probabilities would show: Σ_b n_b/N · E|noise of the bin's accuracy|."""
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(place, minlength=BINS).astype(np.float64)
    spread = np.bincount(place, weights=confidence * (1 - confidence), minlength=BINS)
    # E|x| of a normal of variance s² is s·√(2/π); n_b times the bin's standard error is √(Σ p(1 − p)).
    return float(np.sqrt(spread[counts > 0]).sum() * np.sqrt(2 / np.pi) / len(confidence))


def temperature_of(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The T between 1/20 and 20 by which logits are divided for the lowest NLL, by golden section on log T.

    >>> logits = np.log(np.array([[0.8, 0.2]] * 5)) * 3
    >>> round(temperature_of(logits, np.array([0, 0, 0, 0, 1])), 2)
    3.0
    """
    # One number is known well enough from some of the images.
    step = max(logits.size // _ENOUGH, 1)
    held = logits[::step].astype(np.float64)
    true = np.take_along_axis(held, labels[::step, None], axis=1)[:, 0]
    top = held.max(axis=1)

    def nll(log_t: float) -> float:
        t = np.exp(log_t)
        return float((np.log(np.exp((held - top[:, None]) / t).sum(1)) + (top - true) / t).mean())

    low, high = -np.log(20), np.log(20)
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(40):
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if nll(a) <= nll(b) else (a, high)
    return float(np.exp((low + high) / 2))


def worse_classes(case: Case) -> Finding:
    """Which classes the student lost, beyond what it lost on all; and which its teacher never had."""
    check = "worse_classes"
    stopped = _stopped(case, check)
    if stopped is not None:
        return stopped
    held, mine, theirs = case.predictions, case.student_answers, case.teacher_answers
    if held is None or mine is None or theirs is None:
        return skipped(check, _NO_ANSWERS if held is None else _NO_TEACHER)
    classes = len(held.class_names)
    after, counts = per_class(mine.right, held.labels, classes)
    before, _ = per_class(theirs.right, held.labels, classes)
    there = counts > 0
    overall = float(theirs.right.mean() - mine.right.mean()) * 100
    lost = before - after
    beyond = np.where(there, lost - overall, -np.inf)
    # The noise of a class's own difference, over the draw of its images.
    difference = theirs.right.astype(np.float64) - mine.right.astype(np.float64)
    mean = np.bincount(held.labels, weights=difference, minlength=classes) / np.maximum(counts, 1)
    square = np.bincount(held.labels, weights=difference**2, minlength=classes) / np.maximum(counts, 1)
    error = 100 * np.sqrt(np.maximum(square - mean**2, 0) / np.maximum(counts, 1))
    # A class that lost all alike shows no spread: one image more or less is the least that can be known.
    error = np.maximum(error, 100 / np.maximum(counts, 1) / 2)
    reach = _reach(int(there.sum()))
    sure = there & (beyond > reach * error)
    worst = [
        int(place)
        for place in np.argsort(-beyond, kind="stable")
        if sure[place] and min(beyond[place], lost[place]) >= SLIPPED
    ]
    level = 100 * float(theirs.right.mean())
    weak = [int(c) for c in np.argsort(before, kind="stable") if there[c] and level - before[c] >= WEAK]
    weak = [c for c in weak if level - before[c] > 100 * 2 * figures.margin(level / 100, int(counts[c]))]
    # Nobody is harmed by what a teacher does not know where it is not heard, or the student knows better.
    own = 100 * float(mine.right.mean())
    weak = [c for c in weak if case.teaching and own - after[c] >= WEAK]
    names = held.class_names
    evidence = {
        "lost_on_all": overall,
        "worse": {
            names[c]: {"student": after[c], "teacher": before[c], "images": int(counts[c])} for c in worst[:_SHOWN]
        },
        "weak_in_teacher": {names[c]: {"student": after[c], "teacher": before[c]} for c in weak[:_SHOWN]},
        "classes": int(there.sum()),
    }
    threshold = (
        f"Sick: a class lost {LOST:g} points or more beyond what all classes lost against the teacher, and more than "
        f"chance over its images would explain (5% shared out over the classes); suspect from {SLIPPED:g} points. A "
        f"class on which the teacher is {WEAK:g} points worse than on all, and a student that hears it is too, is the "
        "teacher's fault."
    )
    source = "A student of few parameters gives up whole classes rather than a little of each."
    order = [int(c) for c in np.argsort(-lost, kind="stable") if there[c]][:_SHOWN]
    plot = (
        Plot(
            "bars",
            "Change from teacher to student, the classes that lost most",
            tuple(names[c] for c in order),
            figures.rounded([-lost[c] for c in order], 2),
            "",
            "points",
            -overall - SLIPPED,
        ),
    )
    told = f"No class lost much more than all did ({overall:+.1f} points)."
    verdict: Verdict = "ok"
    remedy = None
    if worst:
        first = worst[0]
        verdict = "problem" if beyond[first] >= LOST else "warning"
        more = f", and {len(worst) - 1} more" if len(worst) > 1 else ""
        told = (
            f"Class {names[first]} fell from {before[first]:.0f}% to {after[first]:.0f}%{more}; all classes together "
            f"lost {overall:.1f} points."
        )
        remedy = Remedy(
            f"Look at the images of {', '.join(names[c] for c in worst[:5])}: show more of them, check their labels, "
            "or take a wider student."
        )
    elif weak:
        verdict = "warning"
        first = weak[0]
        plot = (_weakest(before, there, names, level),)
        told = (
            f"The teacher's fault: it has only {before[first]:.0f}% of class {names[first]} right, the student "
            f"{after[first]:.0f}%."
        )
        remedy = Remedy(
            "Take a teacher that knows these classes; a student cannot learn from it what it does not know."
        )
    return Finding(check, verdict, told, evidence, threshold, remedy, source, plot)


def _weakest(before: NDArray[np.float64], there: NDArray[np.bool_], names: Sequence[str], level: float) -> Plot:
    """The teacher's accuracy on the classes that it knows least."""
    order = [int(c) for c in np.argsort(before, kind="stable") if there[c]][:_SHOWN]
    title = "The teacher's accuracy, the classes that it knows least"
    values = figures.rounded([before[c] for c in order], 2)
    return Plot("bars", title, tuple(names[c] for c in order), values, "", "% right", level - WEAK)


def _reach(classes: int) -> float:
    """Standard errors that one of so many classes may lie off by chance, at 5% for all of them together."""
    return -NormalDist().inv_cdf(_LEVEL / 2 / max(classes, 1))


def teacher_errors_copied(case: Case) -> Finding:
    """Whether the student's errors are its teacher's."""
    check = "teacher_errors_copied"
    if not case.teaching:
        return skipped(check, "No term of the loss reads a teacher.")
    stopped = _stopped(case, check)
    if stopped is not None:
        return stopped
    held, mine, theirs = case.predictions, case.student_answers, case.teacher_answers
    if held is None or mine is None or theirs is None:
        return skipped(check, _NO_ANSWERS if held is None else _NO_TEACHER)
    wrong = ~mine.right
    count = int(wrong.sum())
    if not count:
        return Finding(check, "ok", "The student made no error on the test images.", {"errors": 0})
    same = wrong & (mine.guess == theirs.guess)
    share = float(same.sum()) / count
    expected = _by_chance(held.labels, mine.guess, theirs.guess, wrong, len(held.class_names))
    off = figures.margin(share, count)
    points = 100 * float(same.mean())
    noise = 100 * figures.margin(float(mine.right.mean()), len(held.labels))
    evidence = {
        "errors": count,
        "copied": int(same.sum()),
        "share": share,
        "share_by_chance": expected,
        "margin": off,
        "points_of_accuracy": points,
    }
    threshold = (
        f"Sick: {COPIED:.0%} or more of the student's errors are its teacher's very answers, twice as many as two "
        f"models with these confusions would share by chance, and they are {COSTS:g}% of all images, and more than "
        f"chance moves; suspect from {OFTEN:.0%}, and {MAY_COST:g}% of all images. Hard images are hard for both, so "
        "that some are shared in any run."
    )
    source = "What a teacher says wrong is taught as surely as what it says right."
    plot = (
        Plot(
            "bars",
            "The student's errors",
            ("its teacher's answer", "expected by chance", "its own"),
            figures.rounded([100 * share, 100 * expected, 100 * (1 - share)], 1),
            "",
            "% of its errors",
        ),
    )
    told = f"{share:.0%} of the student's errors are its teacher's answers; {expected:.0%} would be by chance."
    verdict: Verdict = "ok"
    beyond = share - off > expected
    if beyond and share - off / 2 >= COPIED and share >= 2 * expected and points > max(noise, COSTS):
        verdict = "problem"
    elif beyond and share >= OFTEN and points > max(noise, MAY_COST):
        verdict = "warning"
    remedy = None
    if verdict != "ok":
        told = (
            f"{share:.0%} of the student's errors are its teacher's very answers ({int(same.sum())} of {count}; "
            f"{expected:.0%} by chance)."
        )
        remedy = _own_labels(case)
    return Finding(check, verdict, told, evidence, threshold, remedy, source, plot)


def _by_chance(
    labels: NDArray[np.int64],
    mine: NDArray[np.int64],
    theirs: NDArray[np.int64],
    wrong: NDArray[np.bool_],
    classes: int,
) -> float:
    """The share of the student's errors that would be the teacher's, did the two only confuse the same classes.

    For each image the chance that the teacher says of another image of its class what the student said of this one.
    """
    table = np.zeros((classes, classes))
    np.add.at(table, (labels, theirs), 1)
    others = np.maximum(table.sum(1) - 1, 1)
    # The image itself is left out.
    hits = table[labels[wrong], mine[wrong]] - (mine[wrong] == theirs[wrong])
    return float((hits / others[labels[wrong]]).mean())


def _own_labels(case: Case) -> Remedy:
    plain = {term.name for term in case.recipe.losses if isinstance(term.weight, int | float)}
    words = "Let the labels correct the teacher: half of the weight for them; or take a better teacher."
    names = (*case.labelling, *case.teaching)
    if case.labelling and set(names) <= plain:
        return Remedy(words, {f"losses.{name}.weight": 0.5 for name in names})
    return Remedy("Let the labels correct the teacher: add cross_entropy; or take a better teacher.")
