"""Checks of the student's predictions: calibration, classes that it lost, errors that it shares with its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from stillroom.diagnose.check import CheckResult, Limits, Skip, check
from stillroom.diagnose.checks.run import quantities
from stillroom.diagnose.checks.run.baseline import NEEDS_LABELS, cannot_tell
from stillroom.diagnose.checks.run.distillation import FOLLOWS, require_distillation
from stillroom.diagnose.checks.run.quantities import require_trained
from stillroom.diagnose.checks.run.record import RunRecord
from stillroom.diagnose.remedies import path_in
from stillroom.schema.diagnosis import Plot, Remedy, Verdict
from stillroom.schema.predictions import BINS, ImageScores, Predictions, calibration, per_class, score_images

ECE = Limits(warning=0.05, problem=0.10, why="expected calibration error beyond which probabilities are unusable")
# Points below its teacher from which on a student's predictions show nothing but that.
_FAR = 30.0
LOST = Limits(warning=5.0, problem=20.0, why="points that a class lost beyond what all classes lost")
# Points by which a teacher is worse on a class than on all.
_WEAK = 20.0
COPIED = Limits(warning=0.25, problem=0.5, why="share of the student's errors that are its teacher's")
COPIED_POINTS = Limits(
    warning=5.0,
    problem=10.0,
    why="per cent of all images that these errors are: whoever follows a good teacher well shares its few errors",
)
# Of a class that seems worse by chance, over all classes together.
_LEVEL = 0.05
_SHOWN = 12
# Logits that a temperature is fitted to.
_ENOUGH = 2_000_000


def _predictions(run: RunRecord) -> tuple[Predictions, ImageScores]:
    """The logits of the test images and the student's predictions.

    Raises:
        Skip: there are none, or they are not worth looking at.
    """
    require_trained(run)
    if run.gap is not None and run.gap.points >= _FAR:
        raise Skip(f"The student is {run.gap.points:.0f} points below its teacher: fix that first.")
    if run.predictions is None or run.student_answers is None:
        raise Skip("The run folder holds no predictions.safetensors.")
    return run.predictions, run.student_answers


def _teacher_answers(run: RunRecord) -> ImageScores:
    if run.teacher_answers is None:
        raise Skip("There is no teacher to compare with.")
    return run.teacher_answers


@check(
    threshold=(
        f"Problem: ECE of {ECE.problem:g} or more; warning: {ECE.warning:g} or more, and half as much again as the "
        "teacher's. Both only beyond twice what perfect probabilities would show on so few $images. Top-1 does not "
        "depend on it."
    ),
    source="Guo et al., arXiv 1706.04599: one factor on the logits corrects most of it and changes no prediction.",
    limits=[ECE],
    problem="Miscalibrated probabilities",
    title="Calibration",
)
def miscalibrated(run: RunRecord) -> CheckResult:
    """Whether the student's probabilities match its accuracy."""
    found, student = _predictions(run)
    mine = calibration(student.confidence, student.right)
    theirs = None
    if run.teacher_answers is not None:
        theirs = calibration(run.teacher_answers.confidence, run.teacher_answers.right).ece
    lean = float((student.confidence - student.right).mean())
    noise = _chance_ece(student.confidence)
    factor = best_temperature(found.student_logits, found.labels)
    after = calibration(score_images(found.student_logits / factor, found.labels).confidence, student.right).ece
    evidence = {
        "ece": mine.ece,
        "teacher_ece": theirs,
        "ece_of_perfect_probabilities": noise,
        "confidence_less_accuracy": lean,
        "temperature": factor,
        "ece_after_scaling": after,
    }
    bins = (mine.counts > 0).nonzero()[0]
    names = tuple(f"{mine.edges[b]:.2f}–{mine.edges[b + 1]:.2f}" for b in bins)
    values = quantities.decimals(100 * (mine.confidence - mine.accuracy)[bins], 2)
    plot = Plot("bars", "Confidence less accuracy, by confidence", names, values, "confidence", "points overconfident")
    how = f"{'over' if lean > 0 else 'under'}confident by {100 * abs(lean):.1f} points"
    verdict: Verdict = "ok"
    of_teacher = f" (teacher {theirs:.3f})" if theirs is not None else ""
    summary = f"Its probabilities match its accuracy: ECE {mine.ece:.3f}{of_teacher}."
    is_significant = mine.ece >= 2 * noise
    if is_significant and mine.ece >= ECE.problem:
        verdict, summary = "problem", f"Its probabilities are unusable: ECE {mine.ece:.3f}, {how}."
    elif is_significant and mine.ece >= ECE.warning and (theirs is None or mine.ece >= 1.5 * theirs):
        verdict, summary = "warning", f"Its probabilities are off: ECE {mine.ece:.3f}, {how}."
    words = (
        "Divide the student's logits by a temperature before the softmax, fitted on $images it was not trained on: "
        f"here about {factor:.2f}, which leaves an ECE of {after:.3f}. No prediction changes."
    )
    return CheckResult(verdict, summary, evidence, Remedy(words), [plot])


def _chance_ece(confidence: NDArray[np.float64]) -> float:
    """About the ECE that perfect probabilities would show: Σ_b n_b/N · E|noise of the bin's accuracy|."""
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(place, minlength=BINS).astype(np.float64)
    spread = np.bincount(place, weights=confidence * (1 - confidence), minlength=BINS)
    # E|x| of a normal of variance s² is s·√(2/π); n_b times the bin's standard error is √(Σ p(1 − p)).
    return float(np.sqrt(spread[counts > 0]).sum() * np.sqrt(2 / np.pi) / len(confidence))


def best_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The T between 1/20 and 20 by which logits are divided for the lowest NLL, by golden section on log T.

    >>> logits = np.log(np.array([[0.8, 0.2]] * 5)) * 3
    >>> round(best_temperature(logits, np.array([0, 0, 0, 0, 1])), 2)
    3.0
    """
    # One number is known well enough from some of the images.
    step = max(logits.size // _ENOUGH, 1)
    some = logits[::step].astype(np.float64)
    true = np.take_along_axis(some, labels[::step, None], axis=1)[:, 0]
    top = some.max(axis=1)

    def nll(log_t: float) -> float:
        t = np.exp(log_t)
        return float((np.log(np.exp((some - top[:, None]) / t).sum(1)) + (top - true) / t).mean())

    low, high = -np.log(20), np.log(20)
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(40):
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if nll(a) <= nll(b) else (a, high)
    return float(np.exp((low + high) / 2))


@check(
    threshold=(
        f"Problem: a class lost {LOST.problem:g} points or more beyond what all classes lost against the teacher (a "
        "distilled student against the same student from labels alone; without such a run this cannot be judged), and "
        f"more than chance over its $images would explain (5% divided by the number of classes); warning from "
        f"{LOST.warning:g} points. A class on which the teacher is {_WEAK:g} points worse than on all, and a student "
        "that learns from it is too, is the teacher's fault."
    ),
    source="A student with few parameters loses whole classes rather than a little of each.",
    limits=[LOST],
    problem="Classes that were lost",
    title="Classes",
)
def worse_classes(run: RunRecord) -> CheckResult:
    """Which classes the student lost, beyond what it lost on all; and which its teacher is bad at."""
    found, mine = _predictions(run)
    theirs = _teacher_answers(run)
    names, classes = found.class_names, len(found.class_names)
    after, counts = per_class(mine.right, found.labels, classes)
    before, _ = per_class(theirs.right, found.labels, classes)
    there = counts > 0
    # A distilled student is held against itself from labels alone: of few images it is far below its teacher anyway.
    plain = _labels_right(run, found.labels) if run.is_distilled else None
    reference = theirs.right.astype(np.float64) if plain is None else plain
    above = before if plain is None else 100 * _class_means(plain, found.labels, classes)
    overall = float(reference.mean() - mine.right.mean()) * 100
    lost = above - after
    beyond = np.where(there, lost - overall, -np.inf)
    # The noise of a class's own difference, over the draw of its images.
    difference = reference - mine.right.astype(np.float64)
    mean, square = (_class_means(each, found.labels, classes) for each in (difference, difference**2))
    error = 100 * np.sqrt(np.maximum(square - mean**2, 0) / np.maximum(counts, 1))
    # What another seed would change in a class is as much again.
    error = error if plain is None else 2 * error
    # A class that lost all alike shows no spread: half an image more or less is the least that can be known.
    error = np.maximum(error, 100 / np.maximum(counts, 1) / 2)
    # Standard errors that one of so many classes may lie off by chance.
    reach = -NormalDist().inv_cdf(_LEVEL / 2 / max(int(there.sum()), 1))
    is_sure = there & (beyond > reach * error)
    worst = [
        int(c) for c in np.argsort(-beyond, kind="stable") if is_sure[c] and min(beyond[c], lost[c]) >= LOST.warning
    ]
    level, own = 100 * float(theirs.right.mean()), 100 * float(mine.right.mean())
    weak = [int(c) for c in np.argsort(before, kind="stable") if there[c] and level - before[c] >= _WEAK]
    weak = [c for c in weak if level - before[c] > 100 * 2 * quantities.margin(level / 100, int(counts[c]))]
    # What a teacher does not know harms only a student that learns from it and is bad at it, too.
    weak = [c for c in weak if run.teacher_losses and own - after[c] >= _WEAK]
    evidence = {
        "lost_on_all": overall,
        "worse": {
            names[c]: {"student": after[c], "teacher": before[c], "images": int(counts[c])} for c in worst[:_SHOWN]
        },
        "against": "teacher" if plain is None else "labels",
        "weak_in_teacher": {names[c]: {"student": after[c], "teacher": before[c]} for c in weak[:_SHOWN]},
        "classes": int(there.sum()),
    }
    order = [int(c) for c in np.argsort(-lost, kind="stable") if there[c]][:_SHOWN]
    what = "teacher" if plain is None else "labels alone"
    title = f"Change from {what} to student, the classes that lost most"
    plot = _class_plot(title, names, order, [-lost[c] for c in order], "points", -overall - LOST.warning)
    if worst:
        first = worst[0]
        more = f", and {len(worst) - 1} more" if len(worst) > 1 else ""
        summary = (
            f"Class {names[first]} fell from {above[first]:.0f}% ({what}) to {after[first]:.0f}%{more}; all classes "
            f"together lost {overall:.1f} points."
        )
        words = (
            f"Look at the $images of {', '.join(names[c] for c in worst[:5])}: show more of them, check their labels, "
            "or use a wider student."
        )
        if run.is_distilled and plain is None:
            return CheckResult("skipped", cannot_tell(run), {**evidence, **NEEDS_LABELS}, plots=[plot])
        return CheckResult(LOST.at_least(beyond[first]), summary, evidence, Remedy(words), [plot])
    if weak:
        first = weak[0]
        order = [int(c) for c in np.argsort(before, kind="stable") if there[c]][:_SHOWN]
        title = "The teacher's accuracy, the classes that it is worst at"
        plot = _class_plot(title, names, order, [before[c] for c in order], "% right", level - _WEAK)
        summary = (
            f"The teacher's fault: its accuracy on class {names[first]} is only {before[first]:.0f}%, the student's "
            f"{after[first]:.0f}%."
        )
        words = "Use a teacher that is better at these classes."
        return CheckResult("warning", summary, evidence, Remedy(words), [plot])
    return CheckResult("ok", f"No class lost much more than all did ({overall:+.1f} points).", evidence, None, [plot])


def _labels_right(run: RunRecord, labels: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Of each test image, the share of the runs from labels alone that are right; None without such runs."""
    found = [one.student_answers.right for one in run.baselines if one.student_answers is not None]
    same = [each.astype(np.float64) for each in found if len(each) == len(labels)]
    return np.mean(same, axis=0) if same else None


def _class_means(values: NDArray[np.float64], labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    counts = np.maximum(np.bincount(labels, minlength=classes), 1)
    return np.asarray(np.bincount(labels, weights=values, minlength=classes) / counts)


def _class_plot(
    title: str, names: Sequence[str], order: Sequence[int], values: Sequence[float], label: str, mark: float
) -> Plot:
    return Plot("bars", title, tuple(names[c] for c in order), quantities.decimals(values, 2), "", label, mark)


@check(
    threshold=(
        f"Problem: {COPIED.problem:.0%} or more of the student's errors equal its teacher's predictions, twice as "
        "many as two models with these confusions would share by chance, and they are "
        f"{COPIED_POINTS.problem:g}% of all $images, and more than chance moves, and the student is below the "
        "same student from labels alone, or, without such a run, agrees with its teacher on "
        f"{FOLLOWS:g} points more of the $images "
        f"than it classifies correctly; warning from {COPIED.warning:.0%}, and "
        f"{COPIED_POINTS.warning:g}% of all $images. Hard $images are hard for both, so that some are shared in any "
        "run."
    ),
    source="A student learns its teacher's errors as well as its correct predictions.",
    limits=[COPIED, COPIED_POINTS],
    problem="The teacher’s errors, copied",
    title="Copied errors",
)
def teacher_errors_copied(run: RunRecord) -> CheckResult:
    """Whether the student's errors are its teacher's."""
    require_distillation(run)
    found, mine = _predictions(run)
    theirs = _teacher_answers(run)
    wrong = ~mine.right
    count = int(wrong.sum())
    if not count:
        return CheckResult("ok", "The student made no error on the test $images.", {"errors": 0})
    same = wrong & (mine.guess == theirs.guess)
    share = float(same.sum()) / count
    expected = _chance_share(found.labels, mine.guess, theirs.guess, wrong, len(found.class_names))
    margin = quantities.margin(share, count)
    points = 100 * float(same.mean())
    noise = 100 * quantities.margin(float(mine.right.mean()), len(found.labels))
    evidence = {
        "errors": count,
        "copied": int(same.sum()),
        "share": share,
        "share_by_chance": expected,
        "margin": margin,
        "points_of_accuracy": points,
        "below_labels_alone": run.labels_gap.points if run.labels_gap is not None else None,
    }
    names = ("its teacher's prediction", "expected by chance", "its own")
    values = quantities.decimals([100 * share, 100 * expected, 100 * (1 - share)], 1)
    plot = Plot("bars", "The student's errors", names, values, "", "% of its errors")
    summary = f"{share:.0%} of the student's errors are its teacher's predictions; {expected:.0%} would be by chance."
    verdict: Verdict = "ok"
    is_beyond = share - margin > expected
    is_most = share - margin / 2 >= COPIED.problem and share >= 2 * expected
    # What follows is the teacher's, right or wrong: it costs accuracy where it is wrong far more often than right, or
    # where labels alone do better.
    follows = 100 * float((mine.guess == theirs.guess).mean() - mine.right.mean())
    costs = follows >= FOLLOWS if run.labels_gap is None else run.labels_gap.is_significant
    if is_beyond and is_most and costs and points > max(noise, COPIED_POINTS.problem):
        verdict = "problem"
    elif is_beyond and share >= COPIED.warning and points > max(noise, COPIED_POINTS.warning):
        verdict = "warning"
    if verdict != "ok":
        summary = (
            f"{share:.0%} of the student's errors equal its teacher's predictions ({int(same.sum())} of {count}; "
            f"{expected:.0%} by chance)."
        )
    return CheckResult(verdict, summary, evidence, _correct_teacher(run), [plot])


def _chance_share(
    labels: NDArray[np.int64],
    mine: NDArray[np.int64],
    theirs: NDArray[np.int64],
    wrong: NDArray[np.bool_],
    classes: int,
) -> float:
    """The share of the student's errors that would be the teacher's, if the two only confused the same classes.

    For each image the chance that the teacher predicts for another image of its class what the student did for this.
    """
    table = np.zeros((classes, classes))
    np.add.at(table, (labels, theirs), 1)
    others = np.maximum(table.sum(1) - 1, 1)
    # The image itself is left out.
    hits = table[labels[wrong], mine[wrong]] - (mine[wrong] == theirs[wrong])
    return float((hits / others[labels[wrong]]).mean())


def _correct_teacher(run: RunRecord) -> Remedy:
    constant = {term.name for term in run.recipe.losses if isinstance(term.weight, int | float)}
    names = (*run.label_losses, *run.teacher_losses)
    if run.label_losses and set(names) <= constant:
        words = "Let the labels correct the teacher: half of the weight for them; or use a better teacher."
        return Remedy(words, {path_in(run.recipe, name, "weight"): 0.5 for name in names})
    return Remedy("Let the labels correct the teacher: add cross_entropy; or use a better teacher.")
