"""What the student took from its teacher: nothing, everything, or more than the teacher had to give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stillroom.diagnose.checks.run import figures
from stillroom.diagnose.checks.run.learning import has_collapsed, skipped
from stillroom.diagnose.checks.run.reading import Case, Row
from stillroom.diagnose.finding import Finding, Plot, Remedy, Verdict
from stillroom.losses.registry import labels_alone, loss_class
from stillroom.report.fields import is_finite
from stillroom.schema.predictions import paired_margin

# Shares of the weighted loss over the first third, where both terms are far from their end.
IGNORED, FAINT = 0.02, 0.1
# A share with which nobody is followed: where two agree all the same, it is because the same images are hard for both.
SILENT = 0.01
DROWNED = 0.005
# How much of its own loss a teacher's term loses in a run that listens to it at all.
LISTENS = 0.1
# Points by which a student follows its teacher more than the truth.
FOLLOWS = 10.0
# Points above its teacher from which following it costs a student something.
ABOVE = 1.0
# Shares of the images of which the teacher says no more than their label.
GONE, FADING = 0.75, 0.5


def shares_of(case: Case, rows: Sequence[Row]) -> dict[str, float]:
    """Each term's share of the weighted loss, the mean over lines."""
    sums = dict.fromkeys(case.weights, 0.0)
    count = 0
    for row in rows:
        parts = {name: case.loss(row, [name]) for name in sums}
        total = sum(abs(part) for part in parts.values() if part is not None)
        if total and None not in parts.values():
            count += 1
            for name, part in parts.items():
                sums[name] += abs(part or 0.0) / total
    return {name: value / count for name, value in sums.items()} if count else {}


def heard_late(case: Case) -> float | None:
    """The teaching terms' share of the weighted loss over the run, each line by its learning rate and weights of then.

    None where no weight follows a schedule: the first third then tells as much, and is less noisy.
    """
    terms = case.recipe.losses
    scheduled = any(term.has_schedule and term.name in case.teaching for term in terms)
    if not scheduled or not case.planned:
        return None
    heard = total = 0.0
    for row in case.train:
        progress = min(float(row["step"]) / case.planned, 1.0)
        parts = {t.name: t.weight_at(progress) * abs(float(row.get(f"loss/{t.name}", 0.0))) for t in terms}
        whole, rate = sum(parts.values()), float(row.get("lr", 0.0))
        if whole > 0:
            heard += rate * sum(parts[name] for name in case.teaching) / whole
            total += rate
    return heard / total if total else None


def _plain(case: Case, names: Sequence[str]) -> bool:
    """Whether these terms have a number as weight, which an override can replace."""
    terms = {term.name: term for term in case.recipe.losses}
    return all(name in terms and not terms[name].has_schedule for name in names)


def kd_ignored(case: Case) -> Finding:
    """Whether the student heard its teacher at all."""
    check = "kd_ignored"
    if not case.teaching:
        return skipped(check, "No term of the loss reads a teacher.")
    if case.finished and has_collapsed(case):
        return skipped(check, "The student learned nothing; see diverged.")
    shares = shares_of(case, figures.third(case.train, 0))
    if not shares or len(case.train) < 2:
        return skipped(check, "Too few lines of training were logged.")
    late = heard_late(case)
    share = min(sum(shares[name] for name in case.teaching), late if late is not None else 1.0)
    falls = [1 - after / before for before, after in (_ends(case, name) for name in case.teaching) if before > 0]
    fell = max(falls, default=0.0)
    _, divergence = figures.series(case.test, "teacher_kl")
    _, agreement = figures.series(case.test, "agreement")
    since = len(divergence) // 3
    flat = len(divergence) >= 3 and divergence[-1] >= 0.95 * divergence[since]
    stayed = len(agreement) >= 3 and agreement[-1] - agreement[since] <= _noise(case, agreement[-1])
    alone = _independent(case)
    # A teacher that says nearly the same of all images is followed without its loss falling.
    follows = bool(agreement) and alone is not None and agreement[-1] - alone >= FOLLOWS
    evidence = {
        "share_of_loss": share,
        "shares": shares,
        "fall_of_teaching_loss": fell,
        "teacher_kl": divergence[-1] if divergence else None,
        "teacher_kl_after_a_third": divergence[since] if divergence else None,
        "agreement": agreement[-1] if agreement else None,
        "agreement_of_accuracy_alone": alone,
    }
    threshold = (
        f"Sick: the teacher's terms are below {IGNORED:.0%} of the weighted loss in the first third, or their own "
        f"loss fell by less than {LISTENS:.0%}; suspect below {FAINT:.0%}, or where neither the divergence from the "
        "teacher nor the agreement with it improved after a third of the run. A term of a fiftieth of the loss moves "
        "the weights less than another order of the images does."
    )
    threshold += " Where its weight follows a schedule: over the whole run, each line by its learning rate."
    source = "Hinton et al., arXiv 1503.02531: the soft term teaches where its gradient is as large as the labels'."
    plot = figures.evaluation_plot(case, "teacher_kl", "Divergence from the teacher", "teacher KL, nats")
    names = " and ".join(case.teaching)
    verdict: Verdict = "ok"
    told = f"{names} is {share:.0%} of the loss, and its own value fell by {fell:.0%}."
    if follows and share >= SILENT:
        told = (
            f"The student follows its teacher: they agree on {agreement[-1]:.1f}% of the images, accuracy alone would "
            f"{alone:.1f}%."
        )
    elif share < IGNORED:
        verdict, told = "problem", f"The teacher is hardly heard: {names} is {100 * share:.2g}% of the loss."
    elif fell < LISTENS:
        verdict = "problem"
        told = f"The student came no closer to its teacher: {names} fell by {max(fell, 0):.0%} over the whole run."
    elif share < FAINT:
        verdict, told = "warning", f"The teacher is heard faintly: {names} is {share:.0%} of the loss."
    elif flat and stayed:
        verdict = "warning"
        told = (
            f"After a third of the run the student came no closer to its teacher: divergence {divergence[since]:.3g} "
            f"then, {divergence[-1]:.3g} at the end."
        )
    remedy = _louder(case, share) if verdict in ("problem", "warning") else None
    return Finding(check, verdict, told, evidence, threshold, remedy, source, plot)


def _ends(case: Case, name: str) -> tuple[float, float]:
    """A term's own loss at the start and at the end: the means of the first and of the last tenth of the lines."""
    values = [float(row[f"loss/{name}"]) for row in case.train if f"loss/{name}" in row]
    size = max(len(values) // 10, 1)
    return (sum(values[:size]) / size, sum(values[-size:]) / size) if values else (0.0, 0.0)


def _noise(case: Case, percent: float) -> float:
    count = case.student.count if case.student is not None else 1000
    return 100 * figures.margin(percent / 100, count)


def _independent(case: Case) -> float | None:
    """Agreement in per cent of two models as good as these whose errors have nothing in common."""
    if case.student is None or case.teacher is None or not case.classes or case.classes < 2:
        return None
    a, b = case.student.top1 / 100, case.teacher.top1 / 100
    return 100 * (a * b + (1 - a) * (1 - b) / (case.classes - 1))


def _louder(case: Case, share: float) -> Remedy:
    labels, kl = case.part("labels"), case.part("teacher")
    is_pair = labels is not None and kl is not None and len(case.weights) == 2 and _plain(case, [labels, kl])
    if is_pair and share < 0.5 and (case.weights[str(kl)] < 0.9 or case.weights[str(labels)] > 0.1):
        overrides: dict[str, Any] = {f"losses.{kl}.weight": 0.9, f"losses.{labels}.weight": 0.1}
        words = f"Weigh the teacher .9 and the labels .1, as is usual for {kl} at a temperature of 4."
        return Remedy(words, overrides)
    if share < 0.5 and share > 0 and _plain(case, case.teaching):
        # So that both sides weigh alike.
        factor = (1 - share) / share
        overrides = {f"losses.{name}.weight": float(f"{case.weights[name] * factor:.2g}") for name in case.teaching}
        return Remedy(f"Weigh the teacher {factor:.2g} times as much: then it is half of the loss.", overrides)
    return Remedy("Give the student more to follow by: a lower temperature, or a term on features beside this one.")


def labels_drowned(case: Case) -> Finding:
    """Whether the student follows its teacher where the labels would have known better."""
    check = "labels_drowned"
    if not case.teaching:
        return skipped(check, "No term of the loss reads a teacher.")
    shares = shares_of(case, figures.third(case.train, 0))
    if not shares:
        return skipped(check, "No line of training tells each term's loss.")
    labels = sum(shares[name] for name in case.labelling)
    gap = case.gap
    follows = margin = None
    if case.student_answers is not None and case.teacher_answers is not None and case.predictions is not None:
        agrees = case.student_answers.guess == case.teacher_answers.guess
        follows = 100 * float(agrees.mean()) - 100 * float(case.student_answers.right.mean())
        margin = paired_margin(agrees, case.student_answers.right)
    _, top1 = figures.series(case.test, "top1")
    evidence = {
        "labels_share_of_loss": labels,
        "shares": shares,
        "top1": top1[-1] if top1 else None,
        "best_top1": max(top1, default=None),
        "agreement": figures.last(case.test, "agreement"),
        "agreement_less_top1": follows,
        "margin": margin,
        "gap": gap.points if gap is not None else None,
    }
    threshold = (
        f"Sick: the student agrees with its teacher in {FOLLOWS:g} points more of the images than it has right, and "
        "is as good as its teacher, so that the teacher's errors are its ceiling; or the labels are below "
        f"{DROWNED:.1%} of the weighted loss in the first third and the student is below its teacher by more than "
        "chance (suspect where it is not). In runs that go well with .1 labels and .9 kl they are about 1%."
    )
    source = "A term whose gradient is lost in the others' noise is as good as not there."
    plot = (
        Plot(
            "bars",
            "Each term’s part of the loss, first third of the run",
            tuple(shares),
            figures.rounded([100 * share for share in shares.values()], 2),
            "",
            "% of the weighted loss",
        ),
    )
    verdict: Verdict = "ok"
    told = f"The labels are {labels:.1%} of the loss; the student agrees with its teacher no more than it should."
    if follows is not None:
        told = f"The labels are {labels:.1%} of the loss; agreement is {follows:+.1f} points from accuracy."
    ceiling = follows is not None and margin is not None and follows >= max(FOLLOWS, margin)
    if ceiling and gap is not None and gap.points <= max(gap.margin, 2.0) and case.student is not None:
        verdict = "problem"
        names = ("right", "as its teacher says", "its teacher right")
        levels = (case.student.top1, case.student.top1 + (follows or 0), case.student.top1 + gap.points)
        plot = (Plot("bars", "The student's answers", names, figures.rounded(levels, 1), "", "% of the images"),)
        told = (
            f"The student copies its teacher rather than the labels: it agrees with it on "
            f"{evidence['agreement'] or case.student.top1 + (follows or 0):.1f}% of the images and has "
            f"{case.student.top1:.1f}% right."
        )
    elif case.labelling and labels < DROWNED:
        verdict = "problem" if gap is not None and gap.is_real else "warning"
        told = f"The labels have no say: {100 * labels:.2g}% of the loss."
        if gap is not None:
            told = f"{told[:-1]}, and the student is {gap.told} {'below' if gap.points > 0 else 'above'} its teacher."
    if verdict == "ok" and case.finished and has_collapsed(case):
        return skipped(check, "The student learned nothing; see diverged.")
    remedy = _fairer(case) if verdict in ("problem", "warning") else None
    return Finding(check, verdict, told, evidence, threshold, remedy, source, plot)


def _fairer(case: Case) -> Remedy:
    words = "Let the labels be heard: half of the weight for them."
    if not case.labelling:
        terms = [term.model_dump(mode="json") for term in case.recipe.losses]
        halved = [{**term, "weight": 0.5} for term in terms]
        return Remedy(words, {"losses": [*({**term, "weight": 0.5} for term in labels_alone()), *halved]})
    overrides = {f"losses.{name}.weight": 0.5 for name in (*case.labelling, *case.teaching)}
    return Remedy(words, overrides)


def student_at_teacher(case: Case) -> Finding:
    """Whether there is a gap left that distillation could close."""
    check = "student_at_teacher"
    gap = case.gap
    if gap is None or case.student is None or case.teacher is None:
        return skipped(check, "The run did not end." if not case.finished else "There is no teacher to compare with.")
    if has_collapsed(case):
        return skipped(check, "The student learned nothing; see diverged.")
    evidence = {
        "student_top1": case.student.top1,
        "teacher_top1": case.teacher.top1,
        "gap": gap.points,
        "gap_margin": gap.margin,
        "student_parameters": case.student.parameters,
        "teacher_parameters": case.teacher.parameters,
        "taught": case.taught,
    }
    threshold = (
        f"Sick: the student is {ABOVE:g} point or more better than the teacher it learns from, and by more than "
        "another draw of test images explains (95%); suspect: better by less. A teacher can be followed to where it "
        "is, hardly beyond."
    )
    source = "Distillation closes a gap; where there is none, it can only pull back."
    names = (f"student {case.student.model}", f"teacher {case.teacher.model}")
    plot = (Plot("bars", "Top-1 on the test images", names, (case.student.top1, case.teacher.top1), "", "top-1, %"),)
    levels = f"{case.student.top1:.1f}% against {case.teacher.top1:.1f}%"
    if gap.points > 0:
        told = f"The teacher is still {gap.told} ahead ({levels}): there is something left to learn from it."
        return Finding(check, "ok", told, evidence, threshold, None, source, plot)
    sick = gap.is_above and -gap.points >= ABOVE and case.taught
    told = f"No gap is left: {levels}, {gap.told} above the teacher."
    if gap.points == 0:
        told = f"No gap is left: both have {case.student.top1:.1f}%."
    if sick:
        words = "Take a better teacher; from this one, do without: learn from the labels."
        overrides: Mapping[str, Any] = {"losses": labels_alone()}
        told = f"The student is better than its teacher ({levels}, by {gap.told}): following it holds the student back."
        return Finding(check, "problem", told, evidence, threshold, Remedy(words, overrides), source, plot)
    if case.taught and gap.is_above:
        words = "To go further take a better teacher, or do without this one from here on."
        return Finding(check, "warning", told, evidence, threshold, Remedy(words), source, plot)
    told = f"{told} To go further take a larger student, and a larger teacher for it."
    return Finding(check, "ok", told, evidence, threshold, None, source, plot)


def rescaling_gone(case: Case) -> Finding:
    """Whether the teacher still tells samples apart: the factor ω by which it rescales each sample's gradient."""
    check = "rescaling_gone"
    if not case.teaching:
        return skipped(check, "No term of the loss reads a teacher.")
    rows = [row for row in case.rescaling if is_finite(row.get("saturated")) and is_finite(row.get("epoch"))]
    if not rows:
        return skipped(check, "The run did not record it: set training.record_gradient_rescaling=true beside kl.")
    epochs = tuple(float(row["epoch"]) for row in rows)
    saturated = tuple(100 * float(row["saturated"]) for row in rows)
    share = sum(saturated) / len(saturated) / 100
    quantiles = rows[-1].get("quantiles")
    evidence = {
        "saturated": share,
        "first_saturated": saturated[0] / 100,
        "last_saturated": saturated[-1] / 100,
        "last_quantiles": dict(quantiles) if isinstance(quantiles, dict) else None,
        "last_spearman": rows[-1].get("spearman"),
    }
    threshold = (
        f"Sick: over the run, on {GONE:.0%} or more of the images the teacher said no more than their label does (its "
        "doubt is within a twentieth of the student's), so that ω, which rescales their gradient, is that of the "
        f"label alone; suspect from {FADING:.0%}."
    )
    source = (
        "Tang et al., arXiv 2002.03532: an over-capable teacher is uniformly sure, so that rescaling vanishes; raise τ."
    )
    title = "Images of which the teacher says no more than their label"
    plot = (Plot("line", title, epochs, saturated, "epoch", "% of images", 100 * GONE),) if len(rows) >= 3 else ()
    verdict: Verdict = "problem" if share >= GONE else "warning" if share >= FADING else "ok"
    told = f"On {share:.0%} of the images the teacher says no more than their label does"
    if verdict == "ok":
        return Finding(check, verdict, f"{told}; it tells the others apart.", evidence, threshold, None, source, plot)
    return Finding(
        check, verdict, f"{told}: it is too sure to teach.", evidence, threshold, _softer(case), source, plot
    )


def _softer(case: Case) -> Remedy:
    for term in case.recipe.losses:
        temperature = term.softening_temperature
        if loss_class(term).requires.teacher and temperature is not None:
            key = f"losses.{term.name}.temperature"
            words = f"Soften the teacher: temperature {2 * temperature:g} in place of {temperature:g}."
            return Remedy(words, {key: 2 * temperature})
    return Remedy("Take a smaller teacher, or one that was trained for less long: this one is sure of everything.")
