"""Checks of what the student took from its teacher: nothing, everything, or more than the teacher has to give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stillroom.diagnose.check import CheckResult, Limits, Skip, check
from stillroom.diagnose.checks.run import quantities
from stillroom.diagnose.checks.run.quantities import require_not_collapsed
from stillroom.diagnose.checks.run.record import Row, RunRecord
from stillroom.diagnose.remedies import path_in, two_digits
from stillroom.losses.registry import labels_alone, loss_class
from stillroom.schema.diagnosis import Plot, Remedy, Verdict
from stillroom.schema.predictions import paired_margin
from stillroom.tasks import TASKS

TEACHER_SHARE = Limits(
    warning=0.1,
    problem=0.02,
    why="the teacher's share of the weighted loss in the first third, where both terms are far from their end: a term "
    "of a fiftieth of the loss moves the weights less than another order of the images does",
)
# A share with which a student cannot follow its teacher: where they agree, the same images are hard for both.
_NO_SHARE = 0.01
_LABELS_SHARE = 0.005
# How much of its own loss a teacher's term loses in a run that follows it at all.
_FOLLOWED = 0.1
# Points by which a student agrees with its teacher more than with the labels.
FOLLOWS = 10.0
# Points above its teacher from which on following it costs a student something.
_ABOVE = 1.0
SATURATED = Limits(
    warning=0.5, problem=0.75, why="share of the images for which the teacher's target is no softer than their label"
)


def require_distillation(run: RunRecord) -> None:
    """Go on only where a term of the loss reads a teacher; Skip where none does."""
    if not run.teacher_losses:
        raise Skip("No loss term reads a teacher.")


def _first_third(rows: Sequence[Row]) -> Sequence[Row]:
    return rows[: max(len(rows) // 3, 1)]


def loss_shares(run: RunRecord, rows: Sequence[Row]) -> dict[str, float]:
    """Each term's share of the weighted loss, the mean over lines; empty where no line has all terms."""
    sums = dict.fromkeys(run.weights, 0.0)
    count = 0
    for row in rows:
        parts = {name: run.loss(row, [name]) for name in sums}
        total = sum(abs(part) for part in parts.values() if part is not None)
        if total and None not in parts.values():
            count += 1
            for name, part in parts.items():
                sums[name] += abs(part or 0.0) / total
    return {name: value / count for name, value in sums.items()} if count else {}


def _scheduled_share(run: RunRecord) -> float | None:
    """The teacher's share of the weighted loss over the run, each line by its learning rate and its scheduled weights.

    None where no weight follows a schedule: the first third then shows as much, and is less noisy.
    """
    terms = run.recipe.losses
    is_scheduled = any(term.has_schedule and term.key in run.teacher_losses for term in terms)
    if not is_scheduled or not run.planned:
        return None
    teacher = total = 0.0
    for row in run.train:
        progress = min(float(row["step"]) / run.planned, 1.0)
        parts = {t.key: t.weight_at(progress) * abs(float(row.get(f"loss/{t.key}", 0.0))) for t in terms}
        whole, rate = sum(parts.values()), float(row.get("lr", 0.0))
        if whole > 0:
            teacher += rate * sum(parts[name] for name in run.teacher_losses) / whole
            total += rate
    return teacher / total if total else None


@check(
    threshold=(
        f"Problem: the teacher's terms are below {TEACHER_SHARE.problem:.0%} of the weighted loss in the first third, "
        f"or their own loss fell by less than {_FOLLOWED:.0%}; warning below {TEACHER_SHARE.warning:.0%}, or where "
        "neither the divergence from the teacher nor the agreement with it improved after a third of the run. A term "
        "of a fiftieth of the loss moves the weights less than another order of the $images does. Where its weight "
        "follows a schedule: over the whole run, each line by its learning rate."
    ),
    source="Hinton et al., arXiv 1503.02531: the soft term teaches where its gradient is as large as the labels'.",
    limits=[TEACHER_SHARE],
    problem="The teacher is ignored",
    title="Weight of the teacher",
    tasks=TASKS,
)
def kd_ignored(run: RunRecord) -> CheckResult:
    """Whether the student learned from its teacher at all."""
    require_distillation(run)
    if run.finished:
        require_not_collapsed(run)
    shares = loss_shares(run, _first_third(run.train))
    if not shares or len(run.train) < 2:
        raise Skip("Too few lines of training were logged.")
    scheduled = _scheduled_share(run)
    share = min(sum(shares[name] for name in run.teacher_losses), scheduled if scheduled is not None else 1.0)
    falls = [1 - after / before for before, after in (_ends(run, name) for name in run.teacher_losses) if before > 0]
    fell = max(falls, default=0.0)
    _, divergence = quantities.series(run.test, "teacher_kl")
    _, agreement = quantities.series(run.test, "agreement")
    since = len(divergence) // 3
    is_flat = len(divergence) >= 3 and divergence[-1] >= 0.95 * divergence[since]
    stayed = len(agreement) >= 3 and agreement[-1] - agreement[since] <= _agreement_margin(run, agreement[-1])
    independent = _independent_agreement(run)
    # A teacher whose targets are nearly the same for all images is followed without its loss falling.
    follows = bool(agreement) and independent is not None and agreement[-1] - independent >= FOLLOWS
    evidence = {
        "share_of_loss": share,
        "shares": shares,
        "fall_of_teaching_loss": fell,
        "teacher_kl": divergence[-1] if divergence else None,
        "teacher_kl_after_a_third": divergence[since] if divergence else None,
        "agreement": agreement[-1] if agreement else None,
        "agreement_of_accuracy_alone": independent,
    }
    plots = quantities.evaluation_plot(run, "teacher_kl", "Divergence from the teacher", "teacher KL, nats")
    names = " and ".join(run.teacher_losses)
    verdict: Verdict = "ok"
    summary = f"{names} is {share:.0%} of the loss, and its own value fell by {fell:.0%}."
    if follows and share >= _NO_SHARE:
        summary = (
            f"The student follows its teacher: they agree on {agreement[-1]:.1f}% of the $images; by accuracy alone it "
            f"would be {independent:.1f}%."
        )
    elif share < TEACHER_SHARE.problem:
        verdict, summary = "problem", f"The teacher has almost no effect: {names} is {100 * share:.2g}% of the loss."
    elif fell < _FOLLOWED:
        verdict = "problem"
        summary = f"The student came no closer to its teacher: {names} fell by {max(fell, 0):.0%} over the whole run."
    elif share < TEACHER_SHARE.warning:
        verdict, summary = "warning", f"The teacher has little effect: {names} is {share:.0%} of the loss."
    elif is_flat and stayed:
        verdict = "warning"
        summary = (
            f"After a third of the run the student came no closer to its teacher: divergence {divergence[since]:.3g} "
            f"then, {divergence[-1]:.3g} at the end."
        )
    return CheckResult(verdict, summary, evidence, _weight_teacher(run, share), plots)


def _ends(run: RunRecord, name: str) -> tuple[float, float]:
    """A term's own loss at the start and at the end: the means of the first and of the last tenth of the lines."""
    values = [float(row[f"loss/{name}"]) for row in run.train if f"loss/{name}" in row]
    size = max(len(values) // 10, 1)
    return (sum(values[:size]) / size, sum(values[-size:]) / size) if values else (0.0, 0.0)


def _agreement_margin(run: RunRecord, percent: float) -> float:
    count = run.student.count if run.student is not None else 1000
    return 100 * quantities.margin(percent / 100, count)


def _independent_agreement(run: RunRecord) -> float | None:
    """Agreement in per cent of two models of these accuracies whose errors are independent."""
    if run.student is None or run.teacher is None or not run.classes or run.classes < 2:
        return None
    a, b = run.student.top1 / 100, run.teacher.top1 / 100
    return 100 * (a * b + (1 - a) * (1 - b) / (run.classes - 1))


def _has_constant_weights(run: RunRecord, names: Sequence[str]) -> bool:
    """Whether these terms have a number as weight, which an override can replace."""
    terms = {term.key: term for term in run.recipe.losses}
    return all(name in terms and not terms[name].has_schedule for name in names)


def _has_usual_weights(run: RunRecord) -> bool:
    return run.weights[str(run.part("teacher"))] >= 0.9 and run.weights[str(run.part("labels"))] <= 0.1


def _weight_teacher(run: RunRecord, share: float) -> Remedy:
    overrides: dict[str, Any]
    labels, kl = run.part("labels"), run.part("teacher")
    is_pair = labels is not None and kl is not None and len(run.weights) == 2
    if is_pair and share < 0.5 and _has_constant_weights(run, [*run.weights]) and not _has_usual_weights(run):
        overrides = {path_in(run.recipe, str(kl), "weight"): 0.9, path_in(run.recipe, str(labels), "weight"): 0.1}
        words = f"Give the teacher a weight of .9 and the labels .1, as is usual for {kl} at a temperature of 4."
        return Remedy(words, overrides)
    if 0 < share < 0.5 and _has_constant_weights(run, run.teacher_losses):
        # So that both sides count alike.
        factor = (1 - share) / share
        overrides = {
            path_in(run.recipe, name, "weight"): two_digits(run.weights[name] * factor) for name in run.teacher_losses
        }
        words = f"Multiply the teacher's weight by {factor:.2g}: then it is half of the loss."
        return Remedy(words, overrides)
    return Remedy("Use a lower temperature, or add a loss on features.")


@check(
    threshold=(
        f"Problem: the student agrees with its teacher on {FOLLOWS:g} points more of the $images than it classifies "
        "correctly, and is as good as its teacher, so that the teacher's errors are its ceiling; or the labels are "
        f"below {_LABELS_SHARE:.1%} of the weighted loss in the first third and the student is below its teacher by "
        "more than chance (warning where it is not). In runs that go well with .1 labels and .9 kl they are about 1%."
    ),
    source="A term whose gradient is lost in the others' noise has no effect.",
    problem="The labels are ignored",
    title="Weight of the labels",
)
def labels_drowned(run: RunRecord) -> CheckResult:
    """Whether the student follows its teacher where the labels would have been right."""
    require_distillation(run)
    shares = loss_shares(run, _first_third(run.train))
    if not shares:
        raise Skip("No line of training has each term's loss.")
    labels = sum(shares[name] for name in run.label_losses)
    gap = run.gap
    follows = margin = None
    if run.student_answers is not None and run.teacher_answers is not None and run.predictions is not None:
        agrees = run.student_answers.guess == run.teacher_answers.guess
        follows = 100 * float(agrees.mean()) - 100 * float(run.student_answers.right.mean())
        margin = paired_margin(agrees, run.student_answers.right)
    _, top1 = quantities.series(run.test, "top1")
    evidence = {
        "labels_share_of_loss": labels,
        "shares": shares,
        "top1": top1[-1] if top1 else None,
        "best_top1": max(top1, default=None),
        "agreement": quantities.last(run.test, "agreement"),
        "agreement_less_top1": follows,
        "margin": margin,
        "gap": gap.points if gap is not None else None,
    }
    values = quantities.decimals([100 * share for share in shares.values()], 2)
    title = "Each term’s part of the loss, first third of the run"
    plot = Plot("bars", title, tuple(shares), values, "", "% of the weighted loss")
    verdict: Verdict = "ok"
    share = f"The labels are {labels:.1%} of the loss"
    if not run.label_losses and (
        both := [key for key, term in zip(run.weights, run.terms, strict=False) if term.reads_labels]
    ):
        share = f"{' and '.join(both)} reads teacher and labels, so how much of the loss the labels are is not known"
        evidence["labels_share_of_loss"] = None
    summary = f"{share}; the student agrees with its teacher no more than it should."
    if follows is not None:
        summary = f"{share}; agreement is {follows:+.1f} points from accuracy."
    is_ceiling = follows is not None and margin is not None and follows >= max(FOLLOWS, margin)
    if is_ceiling and gap is not None and gap.points <= max(gap.margin, 2.0) and run.student is not None:
        verdict = "problem"
        names = ("correct", "same as its teacher", "its teacher correct")
        levels = (run.student.top1, run.student.top1 + (follows or 0), run.student.top1 + gap.points)
        plot = Plot("bars", "The student's predictions", names, quantities.decimals(levels, 1), "", "% of the $images")
        agreement = evidence["agreement"] or run.student.top1 + (follows or 0)
        summary = (
            f"The student copies its teacher rather than the labels: it agrees with it on {agreement:.1f}% of the "
            f"$images and is correct on {run.student.top1:.1f}%."
        )
    elif run.label_losses and labels < _LABELS_SHARE:
        verdict = "problem" if gap is not None and gap.is_significant else "warning"
        summary = f"The labels have almost no effect: {100 * labels:.2g}% of the loss."
        if gap is not None:
            side = "below" if gap.points > 0 else "above"
            summary = f"{summary[:-1]}, and the student is {gap} {side} its teacher."
    if verdict == "ok" and run.finished:
        require_not_collapsed(run)
    return CheckResult(verdict, summary, evidence, _weight_labels(run), [plot])


def _weight_labels(run: RunRecord) -> Remedy:
    words = "Weight the labels more: give them half of the loss's weight."
    if not run.label_losses:
        terms = [{**term.model_dump(mode="json"), "weight": 0.5} for term in run.recipe.losses]
        return Remedy(words, {"losses": [*({**term, "weight": 0.5} for term in labels_alone()), *terms]})
    names = (*run.label_losses, *run.teacher_losses)
    return Remedy(words, {path_in(run.recipe, name, "weight"): 0.5 for name in names})


@check(
    threshold=(
        f"Problem: the student is {_ABOVE:g} point or more better than the teacher it learns from, and by more than "
        "another draw of test $images explains (95%); warning: better by less. A teacher can be followed to its own "
        "accuracy, hardly beyond."
    ),
    source="Distillation closes a gap to the teacher; without a gap it can only hold the student back.",
    problem="No gap left to the teacher",
    title="Gap to the teacher",
)
def student_at_teacher(run: RunRecord) -> CheckResult:
    """Whether there is a gap left that distillation could close."""
    gap = run.gap
    if gap is None or run.student is None or run.teacher is None:
        raise Skip("The run did not end." if not run.finished else "There is no teacher to compare with.")
    require_not_collapsed(run)
    student, teacher = run.student, run.teacher
    evidence = {
        "student_top1": student.top1,
        "teacher_top1": teacher.top1,
        "gap": gap.points,
        "gap_margin": gap.margin,
        "student_parameters": student.parameters,
        "teacher_parameters": teacher.parameters,
        "distilled": run.is_distilled,
    }
    names = (f"student {student.model}", f"teacher {teacher.model}")
    plots = [Plot("bars", "Top-1 on the test $images", names, (student.top1, teacher.top1), "", "top-1, %")]
    levels = f"{student.top1:.1f}% against {teacher.top1:.1f}%"
    if gap.points > 0:
        summary = f"The teacher is still {gap} ahead ({levels}): the student can still learn from it."
        return CheckResult("ok", summary, evidence, None, plots)
    if gap.is_above and -gap.points >= _ABOVE and run.is_distilled:
        summary = f"The student is better than its teacher ({levels}, by {gap}): following it holds the student back."
        remedy = Remedy("Use a better teacher; without one, train on the labels.", {"losses": labels_alone()})
        return CheckResult("problem", summary, evidence, remedy, plots)
    summary = f"No gap is left: {levels}, {gap} above the teacher."
    if gap.points == 0:
        summary = f"No gap is left: both have {student.top1:.1f}%."
    if run.is_distilled and gap.is_above:
        remedy = Remedy("To go further use a better teacher, or train without this one from here on.")
        return CheckResult("warning", summary, evidence, remedy, plots)
    summary = f"{summary} To go further use a larger student, and a larger teacher for it."
    return CheckResult("ok", summary, evidence, None, plots)


@check(
    threshold=(
        f"Problem: over the run, on {SATURATED.problem:.0%} or more of the $images the teacher's target was no softer "
        "than their label (its uncertainty is within a twentieth of the student's), so that ω, which rescales their "
        f"gradient, is that of the label alone; warning from {SATURATED.warning:.0%}."
    ),
    source=(
        "Tang et al., arXiv 2002.03532: an over-capable teacher is uniformly sure, so that rescaling vanishes; raise τ."
    ),
    limits=[SATURATED],
    problem="The teacher does not separate samples",
    title="Gradient rescaling",
)
def rescaling_gone(run: RunRecord) -> CheckResult:
    """Whether ω, by which the teacher rescales each sample's gradient, still differs between samples."""
    require_distillation(run)
    if not run.rescaling:
        raise Skip("The run did not record it: set training.record_gradient_rescaling=true with a kl loss.")
    epochs = tuple(row.epoch for row in run.rescaling)
    saturated = tuple(100 * row.saturated for row in run.rescaling)
    share = sum(saturated) / len(saturated) / 100
    evidence = {
        "saturated": share,
        "first_saturated": saturated[0] / 100,
        "last_saturated": saturated[-1] / 100,
        "last_quantiles": run.rescaling[-1].quantiles,
        "last_spearman": run.rescaling[-1].spearman,
    }
    title, mark = "$Images for which the teacher's target is no softer than their label", 100 * SATURATED.problem
    plots = [Plot("line", title, epochs, saturated, "epoch", "% of $images", mark)] if len(epochs) >= 3 else []
    verdict = SATURATED.at_least(share)
    rest = "it separates the others" if verdict == "ok" else "it is too confident to teach"
    summary = f"On {share:.0%} of the $images the teacher's target is no softer than their label: {rest}."
    return CheckResult(verdict, summary, evidence, _soften(run), plots)


def _soften(run: RunRecord) -> Remedy:
    for term in run.recipe.losses:
        temperature = term.softening_temperature
        if loss_class(term).requires.teacher and temperature is not None:
            words = f"Soften the teacher: temperature {2 * temperature:g}, not {temperature:g}."
            return Remedy(words, {path_in(run.recipe, term.key, "temperature"): 2 * temperature})
    return Remedy(
        "Use a smaller teacher, or one that was trained for fewer steps: this one is confident on every $image."
    )
