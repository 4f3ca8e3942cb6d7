"""The properties that a distillation loss must have, each measured by calling it on random tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
import torch
from torch import Tensor

from stillroom.diagnose.check import CheckResult, Limits, Skip, check
from stillroom.diagnose.checks.loss.call import Role, Tensors, draw_tensors
from stillroom.diagnose.checks.loss.context import BATCH, LENGTH, NOTHING, LossContext
from stillroom.diagnose.checks.loss.identify import NAMES, FittedTerm, NamedTerm, exponent
from stillroom.diagnose.checks.loss.words import (
    ce_line,
    corrected_line,
    formula,
    kl_line,
    number,
    scale_remedy,
    scale_words,
    short,
    times_words,
)
from stillroom.schema.diagnosis import Remedy, Verdict

# How far half precision may be from float64, as a share of the gradient: rounding of the logits themselves costs a few
# per cent; beyond a half the direction is no longer the loss's own.
HALF = Limits(0.2, 0.6, "bfloat16 keeps 8 bits: a few per cent of the gradient are lost by the logits alone.")
# How much of the gradient the teacher's answers move, relative to what the student's own logits move.
TARGET = Limits(0.05, 0.02, "Answers of different images must make different gradients; a usual loss gives 0.3 to 1.")
# The widest of usual logits, and the temperature beyond which a softmax of usual logits is uniform to a few per cent.
WIDE, MOST_TEMPERATURE = 30.0, 50.0


def _finite(tensor: Tensor | None) -> bool:
    return tensor is None or bool(torch.isfinite(tensor).all())


@check(
    threshold="The loss is a finite number, and its gradient in the student's logits is finite and not zero.",
    source="Without a gradient to the student nothing is learnt, and nothing fails.",
    problem="The student gets no gradient",
    title="Gradient to the student",
)
def student_no_gradient(context: LossContext) -> CheckResult:
    base = context.base
    if base.value is None:
        return CheckResult(
            "problem",
            f"It returns {base.returned}, not a tensor: no gradient can reach the student.",
            {"returned": base.returned},
            Remedy("Return the tensor itself, without .item(), float() or .numpy(), from every branch."),
        )
    gradient = base.student
    if gradient is not None and not _finite(gradient):
        return CheckResult(
            "problem",
            "Its gradient is not finite on ordinary logits (standard deviation 3).",
            {"value": float(base.value), "finite_gradient": False},
            Remedy("Compute in logarithms: F.log_softmax, not log(softmax), and no division by a probability."),
        )
    if gradient is None or float(gradient.norm()) == 0:
        teacher = (
            context.loss(context.draw(), also=["teacher"]).gradients.get("teacher") if context.has_teacher else None
        )
        why = "it is detached, or computed without gradients (no_grad, argmax, .item(), a new tensor)"
        if teacher is not None and float(teacher.norm()) > 0:
            why = "all of it goes to the teacher: the student's side is detached"
        return CheckResult(
            "problem",
            f"No gradient reaches the student: {why}.",
            {"value": float(base.value), "gradient_norm": 0.0},
            Remedy("Detach the teacher's logits, not the student's, and keep the student's in the graph."),
        )
    if not _finite(base.value):
        fit = context.fit
        if not fit.is_known or fit.term(*_PROBABILITIES) is None:
            return CheckResult(
                "problem",
                "Its value is not finite on ordinary logits (standard deviation 3), though its gradient is.",
                {"finite_value": False},
                Remedy("Look for a logarithm of a negative number or of zero."),
            )
    if context.ends:
        place, trouble = next(iter(context.ends.items()))
        return CheckResult(
            "warning",
            f"At {place} it fails: {trouble}." if trouble != "not finite" else f"At {place} it is not finite.",
            {"ends": context.ends},
            Remedy("Leave a term out where its weight is 0, and divide by nothing that may be 0."),
        )
    share = float(gradient.norm())
    return CheckResult("ok", f"The gradient is finite and reaches the student (norm {number(share)}).", {"norm": share})


@check(
    threshold="The teacher's term is minimised over the student, towards the teacher.",
    source="KL(teacher‖student) takes the student's log-probabilities first: F.kl_div(log_q, p).",
    problem="Student and teacher are exchanged",
    title="Student and teacher in their places",
)
def roles_swapped(context: LossContext) -> CheckResult:
    if not context.has_teacher or context.is_of_features:
        raise Skip("It compares no logits of a teacher.")
    fit = context.fit
    swapped = fit.term("swapped_cross_entropy")
    line = kl_line(context.given)
    if swapped is not None and fit.is_known:
        return CheckResult(
            "problem",
            "The student's probabilities are the target and the teacher's log-probabilities the prediction: its "
            "minimum is all probability on one class, not the teacher's answer.",
            {"residual": fit.residual, "temperature": swapped.temperature},
            Remedy("Exchange the two: log_softmax of the student, softmax of the teacher.", code=line),
        )
    labels_at_teacher = _labels_at_teacher(context)
    if labels_at_teacher:
        return CheckResult(
            "problem",
            "The labels act on the teacher's logits: changing them changes the teacher's gradient, not the student's.",
            {"teacher_gradient_change": labels_at_teacher},
            Remedy(
                "Hand the student's logits to the labels' term.",
                code=ce_line(context.given),
            ),
        )
    reverse = fit.term("reverse_kl") if fit.is_known and not fit.term("kl") else None
    if reverse is not None:
        wrong = context.reverse_by_kl_div and not context.says_reverse
        text = (
            "Its divergence is KL(student‖teacher): the student's probabilities are the target of F.kl_div. It seeks "
            "one mode of the teacher's answer and leaves the others."
        )
        if not context.reverse_by_kl_div:
            text = "Its divergence is KL(student‖teacher), which seeks one mode of the teacher's answer."
        if wrong:
            return CheckResult(
                "problem",
                text,
                {"temperature": reverse.temperature},
                Remedy("Exchange the two, unless this is meant (then say `reverse KL` in its docstring).", code=line),
            )
        return CheckResult("ok", text, {"temperature": reverse.temperature})
    return CheckResult("ok", "Student and teacher stand in their places.")


def _labels_at_teacher(context: LossContext) -> float:
    """By how much the labels move the teacher's gradient, where they do not move the student's."""
    if not context.has_labels or context.changes("labels")[0] > NOTHING:
        return 0.0
    first = context.draw()
    other = {**first, "labels": (first["labels"] + 1) % context.classes}
    one, two = (context.loss(each, also=["teacher"]).gradients.get("teacher") for each in (first, other))
    if one is None or two is None:
        return 0.0
    change = float((one - two).norm())
    return change if change > NOTHING * context.usual_gradient else 0.0


_TWICE = ("the teacher's logits go through softmax twice", "one softmax of the teacher's logits")
_PROBABILITIES: Mapping[str, tuple[str, str]] = {
    "probabilities_as_log_input": (
        "F.kl_div is given the student's probabilities where it takes log-probabilities",
        "F.log_softmax of the student",
    ),
    "logits_as_log_input": (
        "F.kl_div is given the student's raw logits where it takes log-probabilities, so that its gradient does not "
        "depend on the student at all",
        "F.log_softmax of the student",
    ),
    "logits_as_target": (
        "the teacher's raw logits are the target where probabilities are due",
        "F.softmax of the teacher",
    ),
    "raw_logits_as_target": (
        "the teacher's raw logits are the target where probabilities are due",
        "F.softmax of the teacher",
    ),
    "log_probabilities_as_target": (
        "the teacher's log-probabilities are the target where probabilities are due",
        "F.softmax of the teacher, or log_target=True",
    ),
    "softmax_twice": _TWICE,
    "softmax_twice_softened": _TWICE,
    "softmax_twice_both": ("both go through softmax twice", "one softmax of each"),
    "softmax_twice_student": (
        "the student's logits go through softmax twice",
        "one log_softmax of the student's logits",
    ),
    "cross_entropy_of_probabilities": (
        "cross-entropy is given the student's probabilities where it takes logits (softmax twice)",
        "F.cross_entropy of the logits, without softmax",
    ),
    "probabilities_for_log_probabilities": (
        "the labels' term takes probabilities where log-probabilities are due",
        "F.log_softmax of the student, or F.cross_entropy of the logits",
    ),
}


@check(
    threshold="Each term gets what it takes: logits, probabilities or log-probabilities.",
    source="F.kl_div takes log-probabilities and probabilities, F.cross_entropy logits; neither checks.",
    problem="Probabilities where logits or log-probabilities are due",
    title="Logits and probabilities",
)
def probabilities_for_logits(context: LossContext) -> CheckResult:
    if context.is_of_features:
        raise Skip("It compares features.")
    fit = context.fit
    for term in fit.terms if fit.is_known else ():
        if term.kind in _PROBABILITIES:
            what, instead = _PROBABILITIES[term.kind]
            is_labels = "cross_entropy" in term.kind or term.kind == "probabilities_for_log_probabilities"
            code = ce_line(context.given) if is_labels else kl_line(context.given)
            return CheckResult(
                "problem",
                f"{what[:1].upper()}{what[1:]}.",
                {"form": term.kind, "temperature": term.temperature, "residual": fit.residual},
                Remedy(f"Take {instead}.", code=code),
            )
    if context.has_teacher and not fit.is_known and context.loss.argument("teacher").form == "plain":
        level = context.equality_gradient()
        other = context.loss.in_form("teacher", "probabilities")
        try:
            mended = context.equality_gradient(other)
        except Exception:  # the loss may refuse probabilities
            mended = level
        if level > 0.05 and mended < 1e-4:
            return CheckResult(
                "problem",
                "It takes the teacher's probabilities, but its argument "
                f"{context.loss.argument('teacher').name!r} is given logits like the student's.",
                {"gradient_at_equality": level, "with_probabilities": mended},
                Remedy("Put the teacher's logits through softmax first, at the temperature of the student's."),
            )
    return CheckResult("ok", "No softmax is missing and none is applied twice.")


@check(
    threshold="Both sides are softened at one temperature.",
    source="At two temperatures the minimum is at other logits than the teacher's: the student is too sharp or flat.",
    problem="Only one side is softened",
    title="Temperature of both sides",
)
def temperature_one_sided(context: LossContext) -> CheckResult:
    if not context.has_teacher or context.is_of_features:
        raise Skip("It compares no logits of a teacher.")
    fit = context.fit
    softened = fit.term("softened_cross_entropy") if fit.is_known else None
    if softened is not None:
        tau = number(softened.temperatures[0])
        others = [term for term in fit.terms if term.temperature and term is not softened]
        is_same = any(abs(term.temperatures[0] / softened.temperatures[0] - 1) < 1e-3 for term in others)
        return CheckResult(
            "problem" if is_same else "warning",
            f"The labels' term, too, gets logits divided by τ = {tau}: its gradient is {tau} times smaller, and the "
            "student is trained to be too sharp.",
            {"temperature": softened.temperature, "residual": fit.residual},
            Remedy("Give the labels' term the logits themselves.", code=ce_line(context.given)),
        )
    term = fit.term("one_sided") if fit.is_known else None
    if term is None or term.temperatures[1] > MOST_TEMPERATURE:
        return CheckResult("ok", "Student and teacher are softened alike.")
    student, teacher = term.temperatures
    return CheckResult(
        "problem",
        f"The student is softened at τ = {number(student)}, the teacher at τ = {number(teacher)}: the term is smallest "
        f"where the student's logits are {number(student / teacher)} times the teacher's.",
        {"student_temperature": student, "teacher_temperature": teacher, "residual": fit.residual},
        Remedy(
            "Divide the logits of both by the same temperature.",
            code=kl_line(context.given),
        ),
    )


@check(
    threshold="A term of the teacher sends its gradient to the student.",
    source="A gradient into the teacher is lost where it is frozen, and changes it where it is not.",
    problem="The gradient goes to the teacher, not to the student",
    title="Gradient to the teacher",
)
def teacher_gradient(context: LossContext) -> CheckResult:
    role: Role = "teacher_features" if context.is_of_features else "teacher"
    if role not in context.loss.roles:
        raise Skip("It takes no teacher.")
    found = context.loss(context.draw(), also=[role]).gradients.get(role)
    norm = float(found.norm()) if found is not None else 0.0
    if norm <= NOTHING * context.usual_gradient:
        return CheckResult("ok", "No gradient reaches the teacher.", {"teacher_gradient": 0.0})
    if context.changes(role)[0] < NOTHING:
        return CheckResult(
            "problem",
            "The teacher's term sends its gradient to the teacher and none to the student: the wrong side is detached.",
            {"teacher_gradient": norm},
            Remedy("Detach the teacher's logits, not the student's."),
        )
    return CheckResult(
        "ok",
        "It does not detach the teacher's logits: run the teacher under torch.no_grad().",
        {"teacher_gradient": norm},
    )


@check(
    threshold="Another answer of the teacher gives another gradient.",
    source="A loss that ignores the teacher trains from the labels alone.",
    problem="The teacher is not used",
    title="The teacher's answer matters",
)
def teacher_unused(context: LossContext) -> CheckResult:
    role: Role = "teacher_features" if context.is_of_features else "teacher"
    if role not in context.loss.roles:
        raise Skip("It takes no teacher.")
    gradient, value = context.changes(role)
    evidence = {"gradient_change": gradient, "value_change": value}
    if gradient > NOTHING:
        return CheckResult("ok", f"The teacher's answer moves {times_words(gradient)} of the gradient.", evidence)
    name = context.loss.argument(role).name
    weights = ", ".join(f"{each.name} = {number(each.value)}" for each in context.loss.options if each.kind == "weight")
    if context.has_weights and not context.is_unused_at_all(role):
        return CheckResult("warning", f"At its defaults ({weights}) the teacher is not used.", evidence)
    how = "changes the value only, not the gradient" if value > NOTHING else "changes nothing"
    return CheckResult(
        "problem",
        f"The student's gradient does not depend on the teacher: another {name!r} {how}.",
        evidence,
        Remedy(f"Compare the student's logits with {name!r}; look for a wrong variable or a detached student."),
    )


@check(
    threshold="Another label gives another gradient, where the loss takes labels.",
    source="An argument that has no effect is a wrong variable, or a term that was lost.",
    problem="The labels are not used",
    title="Labels matter",
)
def labels_unused(context: LossContext) -> CheckResult:
    if not context.has_labels:
        raise Skip("It takes no labels.")
    gradient, value = context.changes("labels")
    evidence = {"gradient_change": gradient, "value_change": value}
    if gradient > NOTHING:
        return CheckResult("ok", f"The labels move {times_words(gradient)} of the gradient.", evidence)
    name = context.loss.argument("labels").name
    if context.has_weights and not context.is_unused_at_all("labels"):
        return CheckResult("warning", "At the defaults of its weights the labels are not used.", evidence)
    if context.labels_mask:
        return CheckResult("ok", "The labels say which positions count; nothing else is read from them.", evidence)
    said = any(each.said == "labels" for each in context.weights)
    if value <= NOTHING and not said and not context.reads(name):
        return CheckResult(
            "ok", f"It takes {name!r} and leaves it unused on purpose: its code never reads it.", evidence
        )
    how = "change the value only, not the gradient" if value > NOTHING else "change nothing"
    return CheckResult(
        "problem",
        f"The labels {how}: the student does not learn from them.",
        evidence,
        Remedy("Give the labels' term the student's logits, and add it to what is returned."),
    )


@check(
    threshold="A weight weighs what its name or its description says.",
    source="At .5 both readings are the same; anywhere else they are not.",
    problem="A weight is on the wrong term",
    title="Weights on their terms",
)
def weights_swapped(context: LossContext) -> CheckResult:
    if not context.weights:
        raise Skip("It has no weight that could be found by its name.")
    evidence = {each.option.name: {"weighs": each.grows, "said": each.said} for each in context.weights}
    for each in context.weights:
        if each.said is not None and each.grows is not None and each.said != each.grows:
            name, whose, other = each.option.name, _OF[each.said], _OF[each.grows]
            return CheckResult(
                "problem",
                f"{name} is said to weigh the {whose} term ({each.text!r}) and weighs the {other}.",
                evidence,
                Remedy(f"Multiply the {whose} term by {name} and the {other} by 1 − {name}."),
            )
    idle = [each.option.name for each in context.weights if context.is_idle(each.option)]
    if idle:
        return CheckResult("warning", f"{', '.join(idle)} changes nothing.", evidence)
    meant = ", ".join(f"{each.option.name} weighs the {each.grows}" for each in context.weights if each.grows)
    return CheckResult("ok", f"Weights: {meant}." if meant else "Its weights act.", evidence)


@check(
    threshold="A term's size does not depend on the batch, the length, the number of classes or the temperature.",
    source="F.kl_div's default `reduction='mean'` averages over the classes, too; without τ² a softened gradient fades "
    "as 1/τ² (Hinton et al., arXiv 1503.02531).",
    problem="A term has the wrong size",
    title="Size of the terms",
)
def loss_scale(context: LossContext) -> CheckResult:
    if context.is_of_features:
        return _feature_scale(context)
    features = _feature_scale(context) if "student_features" in context.loss.roles else None
    if features is not None and features.verdict != "ok":
        # Next to terms that are averaged.
        return replace(features, verdict="problem")
    if not context.fit.is_known:
        return _scale_outside_the_family(context)
    terms = context.terms
    wrong = [term for term in terms if term.factor is not None]
    evidence = {"terms": [term.evidence() for term in terms]}
    powers = context.length_powers
    summed = [term for term, power in zip(terms, powers, strict=False) if power == 1]
    if not wrong and summed:
        return CheckResult(
            "problem" if len(terms) == 1 or 0 in powers else "warning",
            f"{formula(terms)}; on sequences [B, L, K] its {' and '.join(map(short, summed))} term is summed over the "
            f"L positions: {LENGTH} times too strong at L = {LENGTH}.",
            {**evidence, "length_powers": list(powers)},
            Remedy("Average over the positions, too: flatten to [B·L, K] before `batchmean`."),
        )
    if not wrong:
        return CheckResult("ok", "No term grows with the batch, the classes or the temperature.", evidence)
    sentence = scale_words(wrong)
    code = corrected_line(terms, context.loss, context.setting, context.num_classes)
    remedy = Remedy(scale_remedy(wrong), code=code)
    # A factor on all of a loss with labels is a learning rate; a term of the teacher alone goes with another loss.
    is_common = len({f"{term.factor:.3g}" if term.factor else "" for term in terms}) == 1 and len(terms) > 1
    # Only kl is by convention multiplied by τ²; the mean of squared normalised logits is 2/K of the cosine.
    wrong = [term for term in wrong if term.name != "cosine" or "classes" not in term.reasons[0]] or wrong
    is_mean_of_cosine = all(term.name == "cosine" and "classes" in term.reasons[0] for term in wrong)
    is_convention = not is_mean_of_cosine and all(
        term.name in ("kl", "soft_cross_entropy") or _other_reasons(term) for term in wrong
    )
    by_classes = not is_mean_of_cosine and any("classes" in reason for term in wrong for reason in term.reasons)
    if context.is_softened_for_the_check and not any(map(_other_reasons, wrong)):
        # At its own τ = 1 nothing is missing.
        return CheckResult(
            "warning" if is_convention else "ok", f"At τ = 4: {formula(terms)}, {sentence}.", evidence, remedy
        )
    verdict: Verdict = "problem" if by_classes or (is_convention and not is_common) else "warning"
    if not is_convention and len(terms) == 1:
        verdict = "ok"
    if _is_made_up_for(context, terms):
        return CheckResult("ok", f"{formula(terms)}, {sentence}{_BY_CALLER}.", evidence)
    also = " All of the loss has this factor, so that it acts as a learning rate." if is_common else ""
    if context.is_named_a_sum and len(terms) == 1 and all("summed over the batch" in each for each in terms[0].reasons):
        verdict, also = "warning", " Its name says so: divide by the rows of the step where it is called."
    return CheckResult(verdict, f"{formula(terms)}, {sentence}.{also}", evidence, remedy)


_OF = {"teacher": "teacher's", "labels": "labels'"}


def _scale_outside_the_family(context: LossContext) -> CheckResult:
    """How the teacher's part and the labels' part go with the batch, and the teacher's with the temperature."""
    if not context.has_teacher or not context.is_row_local:
        raise Skip("Its terms cannot be separated.")
    if context.has_mixed_reduction:
        return CheckResult(
            "problem",
            f"One term is summed over the batch, another averaged: × {BATCH} between them for {BATCH} rows.",
            {},
            Remedy("Average all terms over the batch."),
        )
    grows = {side: context.grows_with_batch(side) for side in ("teacher", "labels") if side in context.loss.roles}
    evidence: dict[str, object] = {"grows_with_the_batch": grows}
    if set(grows.values()) == {True, False}:
        summed, mean = sorted(grows, key=lambda side: not grows[side])
        return CheckResult(
            "problem",
            f"The {_OF[summed]} part is summed over the batch, the {_OF[mean]} averaged: × {BATCH} for {BATCH} rows.",
            evidence,
            Remedy("Average both over the batch."),
        )
    fade = context.fade_with_temperature
    evidence["fade_with_temperature"] = fade
    if fade is not None and fade < 0.3:
        return CheckResult(
            "warning",
            f"At twice the temperature the teacher's part is {number(1 / fade)} times weaker: τ² seems to be missing.",
            evidence,
            Remedy("Multiply the teacher's term by τ²."),
        )
    return CheckResult("ok", "No part grows with the batch alone or fades with the temperature.", evidence)


def _other_reasons(term: NamedTerm) -> bool:
    return any("τ" not in reason for reason in term.reasons)


_BY_CALLER = "; where its file calls it, a factor makes up for it"


def _is_made_up_for(context: LossContext, terms: Sequence[NamedTerm]) -> bool:
    """Whether all that a loss of one term lacks is a power of τ, and the file that calls it puts it there."""
    factor = terms[0].factor if len(terms) == 1 else None
    lacks = factor is not None and factor < 1 and not _other_reasons(terms[0])
    tau = terms[0].temperature if lacks else None
    return tau is not None and context.is_made_up_for_by_its_caller(tau)


def _feature_scale(context: LossContext) -> CheckResult:
    """Whether the loss of features grows with the batch or with the number of features."""
    loss = context.loss

    def per_entry(batch: int, shape: tuple[int, ...]) -> float:
        tensors = draw_tensors(replace(loss, feature_shape=shape), lead=(batch,), classes=context.num_classes)
        gradient = loss(tensors).gradients.get("student_features")
        return float(gradient.abs().mean()) * batch if gradient is not None else 0.0

    shape = loss.feature_shape
    wide = (2 * shape[0], *shape[1:])
    try:
        base = per_entry(BATCH, shape)
        of_batch = exponent(per_entry(2 * BATCH, shape) / base, 2)
        of_features = _near_power(per_entry(BATCH, wide) / base)
    except Exception as error:
        raise Skip(f"It takes one shape of features: {error}") from None
    evidence = {"batch_power": of_batch, "features_power": of_features, "shape": list(shape)}
    if of_batch == 1:
        return CheckResult(
            "problem",
            f"It is summed over the batch: × {BATCH} for {BATCH} images.",
            evidence,
            Remedy("Average over the batch."),
        )
    if of_features == 0:
        count = int(np.prod(shape))
        return CheckResult(
            "warning",
            f"It is summed over the features: with {count} of them it is {count} times the mean.",
            evidence,
            Remedy("Average over all entries, as F.mse_loss does, or weigh the term for its sum."),
        )
    return CheckResult("ok", "It does not grow with the batch or the number of features.", evidence)


def _near_power(ratio: float) -> int | None:
    """The power of two of a mean over random numbers, which is only nearly one."""
    power = float(np.log2(max(ratio, 1e-300)))
    return round(power) if abs(power - round(power)) < 0.25 else None


@check(
    threshold="The teacher's term has no gradient where the student answers as the teacher, and is smallest there, not "
    "where the relations between its rows are a multiple of the teacher's.",
    source="Gradient, not value: a soft cross-entropy is above zero at its minimum.",
    problem="The minimum is not where the student answers as the teacher",
    title="Minimum at the teacher's answer",
)
def loss_minimum(context: LossContext) -> CheckResult:
    if context.is_of_features:
        return _feature_minimum(context)
    if not context.has_teacher:
        raise Skip("It takes no teacher.")
    if context.changes("teacher")[0] < NOTHING:
        raise Skip("The teacher does not move its gradient.")
    fit = context.fit
    negative = [term for term in fit.terms if term.coefficient < 0] if fit.is_known else []
    if negative:
        return CheckResult(
            "problem",
            f"Its {_title(negative[0])} term is negative: it is maximised, away from the "
            f"{'labels' if negative[0].kind in ('cross_entropy', 'label_smoothing') else 'teacher'}.",
            {"coefficient": negative[0].coefficient},
            Remedy("Turn its sign."),
        )
    if fit.is_known and all(term.kind in NAMES for term in fit.terms):
        return CheckResult("ok", "Its terms are smallest at the teacher's answer and at the labels.", {})
    if fit.is_known and fit.term("pseudo_labels"):
        return CheckResult("ok", "It teaches the teacher's decisions, not its probabilities.", {})
    level = context.equality_gradient()
    evidence: dict[str, float] = {"gradient_at_equality": level}
    if not context.is_row_local and level < 1e-3:
        return CheckResult("ok", "It has no gradient where the student answers as the teacher.", evidence)
    if context.is_row_local:
        descent = context.descent
        evidence |= asdict(descent)
        if descent.leads_away:
            return CheckResult(
                "problem",
                f"It leads away from the teacher: minimised over free logits, the student takes the teacher's decision "
                f"on {descent.agreement:.0%} of the rows, and KL(teacher‖student) goes from "
                f"{number(descent.distance_before)} to {number(descent.distance_after)}.",
                evidence,
                Remedy("Look at its sign, at what is clipped before a sum, and over which dimension softmax runs."),
            )
    if level < 1e-3:
        return CheckResult("ok", "It is smallest where the student answers as the teacher.", evidence)
    if fit.is_known:
        return CheckResult(
            "problem",
            f"Where the student answers as the teacher, {times_words(level)} of the usual gradient is left.",
            evidence,
            Remedy("Compare both sides in one form: the same softmax, temperature and dimension."),
        )
    return _at_a_multiple(context, evidence) or CheckResult(
        "warning",
        f"Where the student answers as the teacher, {times_words(level)} of the usual gradient is left.",
        evidence,
        Remedy("Nothing, if this is meant: a loss may teach something else than the teacher's answer."),
    )


def _feature_minimum(context: LossContext) -> CheckResult:
    loss = context.loss
    if "teacher_features" not in loss.roles:
        raise Skip("It takes no teacher.")
    tensors = context.draw()
    if tensors["student_features"].shape != tensors["teacher_features"].shape:
        raise Skip("Student and teacher have features of different shapes.")
    equal = {**tensors, "student_features": tensors["teacher_features"]}
    found = loss(equal)
    level = float(context.gradient(equal, loss).norm()) / context.usual_gradient
    if not np.isfinite(level) or (found.value is not None and not _finite(found.value)):
        return CheckResult(
            "warning",
            "Its gradient is not finite where the features are equal (the root of zero has none).",
            {},
            Remedy("Add a small number under the root, or square the distance."),
        )
    evidence = {"gradient_at_equality": level}
    if level < 1e-3:
        return CheckResult("ok", "It is smallest where the features are equal.", evidence)
    return _at_a_multiple(context, evidence) or CheckResult(
        "warning",
        f"Where the features are equal, {times_words(level)} of the usual gradient is left.",
        evidence,
        Remedy("Nothing, if the loss compares something else than the features themselves."),
    )


def _at_a_multiple(context: LossContext, evidence: Mapping[str, float]) -> CheckResult | None:
    multiple = context.multiple_at_minimum
    if multiple is None:
        return None
    return CheckResult(
        "problem",
        f"It is smallest where the student's rows are {number(multiple)} times the teacher's, and not where they are "
        "equal: one side is normalised and the other is not.",
        {**evidence, "multiple": multiple},
        Remedy("Divide both sides by their own mean.", code="d_s, d_t = d_s / d_s.mean(), d_t / d_t.mean()"),
    )


@check(
    threshold="Other answers of the teacher give clearly other gradients.",
    limits=(TARGET,),
    source="A target that is nearly the same for all images teaches what label smoothing teaches.",
    problem="The target hardly varies",
    title="Variance of the target",
)
def target_constant(context: LossContext) -> CheckResult:
    if not context.has_teacher or context.is_of_features:
        raise Skip("It compares no logits of a teacher.")
    first, second = context.draw(), context.draw(seed=1)
    base = context.teacher_field(first, context.loss)
    by_teacher, by_student = (
        float((base - context.teacher_field({**first, role: second[role]}, context.loss)).norm())
        for role in ("teacher", "student")
    )
    if by_teacher < NOTHING * context.usual_gradient:
        raise Skip("The teacher does not move its gradient.")
    if by_student < NOTHING * context.usual_gradient:
        raise Skip("The student does not move its gradient.")
    one_sided = context.fit.term("one_sided") if context.fit.is_known else None
    if one_sided is not None and one_sided.temperatures[1] > MOST_TEMPERATURE:
        tau = one_sided.temperatures[1]
        return CheckResult(
            "problem",
            f"The teacher is softened at τ = {number(tau)}: its answer is nearly uniform for every image.",
            {"temperature": tau},
            Remedy("Soften both sides at one temperature of 1 to 20.", code=kl_line(context.given)),
        )
    term = next((each for each in context.fit.terms if each.kind == "kl"), None) if context.fit.is_known else None
    if term is not None and context.fit.is_known:
        tau = term.temperatures[0]
        if tau <= MOST_TEMPERATURE:
            return CheckResult("ok", f"The target is the teacher's answer at τ = {number(tau)}.", {"temperature": tau})
        return CheckResult(
            "warning",
            f"At τ = {number(tau)} the target is nearly uniform: the term is a squared difference of logits.",
            {"temperature": tau},
            Remedy("Take a temperature of 1 to 20."),
        )
    share = by_teacher / by_student
    verdict = TARGET.below(share) if not context.fit.is_known else "ok"
    if verdict != "ok" and context.multiple_at_minimum is not None:
        raise Skip("The teacher's relations have another scale than the student's: see loss_minimum.")
    return CheckResult(
        verdict,
        f"The teacher's answers move the gradient {number(share)} times as much as the student's logits do.",
        {"share": share},
        Remedy("Look for a second softmax or a softmax over the wrong dimension on the teacher's side."),
    )


@check(
    threshold="The loss of a batch is the mean of its parts, each row compared with its own.",
    source="A softmax over the batch, or rows of another order, train without an error.",
    problem="Rows are not compared one by one",
    title="A batch and its parts",
)
def batch_split(context: LossContext) -> CheckResult:
    loss, whole = context.loss, context.draw(lead=context.lead(8))
    returned = context.base.returned
    if returned.startswith("a tensor") and returned != "a tensor of [1]":
        return CheckResult(
            "warning",
            f"It returns {returned}, not a scalar; its mean was checked.",
            {"returned": returned},
            Remedy("Return the mean."),
        )
    full = context.gradient(whole, loss)
    order = torch.tensor([3, 1, 5, 0, 4, 2, 7, 6])
    shuffled = {role: tensor[order] for role, tensor in whole.items()}
    order_error = _gap(context.gradient(shuffled, loss), full[order])
    halves = [{role: tensor[part] for role, tensor in whole.items()} for part in (slice(0, 4), slice(4, 8))]
    parts = torch.cat([context.gradient(half, loss) for half in halves])
    # A mean gives each row twice the gradient in half the batch, a sum the same.
    mean_error, sum_error = _gap(parts / 2, full), _gap(parts, full)
    evidence = {"order": order_error, "mean_of_parts": mean_error, "sum_of_parts": sum_error}
    is_local = order_error < 1e-4 and (min(mean_error, sum_error) < 1e-4 or context.is_row_local)
    single = _single_row(context, whole)
    # Relations between samples need two of them.
    if single and is_local:
        return CheckResult(
            "problem", single, evidence, Remedy("Reduce with mean(), and keep the batch's dimension: no squeeze().")
        )
    if is_local and context.sequence_residual > 0.01:
        return CheckResult(
            "problem",
            "On sequences [B, L, K] it is another loss than on rows: a softmax runs over the positions (dim=1), not "
            "over the classes.",
            evidence,
            Remedy("Take dim=-1 in softmax and log_softmax, or flatten to [B·L, K] first."),
        )
    if is_local:
        if mean_error < 1e-4:
            return CheckResult("ok", "The loss of a batch is the mean of its parts.", evidence)
        how = "sum of its parts" if sum_error < 1e-4 else "sum of its parts in one term, their mean in another"
        return CheckResult("ok", f"The loss of a batch is the {how}.", evidence)
    if context.is_of_features or not context.has_teacher:
        return CheckResult("ok", "Rows depend on each other, as in losses of relations between samples.", evidence)
    columns = context.column_fit if context.given.layout == "rows" and not context.has_labels else None
    if (columns is not None and columns.is_known) or _depends_on_columns(context):
        return CheckResult(
            "problem",
            "A softmax runs over the batch (dim=0): each class is compared over the images, not each image over the "
            "classes.",
            evidence,
            Remedy("Take dim=-1 in softmax and log_softmax."),
        )
    own, other = _row_dependence(context, whole)
    evidence |= {"own_row": own, "other_rows": other}
    if own < NOTHING < other:
        return CheckResult(
            "problem",
            "A row of the student is compared with another row of the teacher.",
            evidence,
            Remedy("Keep the order of the rows: no flip, roll, sort or shuffle of one side alone."),
        )
    return CheckResult("ok", "Rows depend on each other, as in losses of relations between samples.", evidence)


def _gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm().clamp(min=1e-300))


def _single_row(context: LossContext, whole: Mapping[Role, Tensor]) -> str:
    """What goes wrong with a batch of one."""
    single = {role: tensor[:1] for role, tensor in whole.items()}
    try:
        found = context.loss(single)
    except Exception as error:
        return (
            f"A batch of one fails: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(
                ": "
            )
        )
    if found.value is not None and _finite(context.base.value) and not _finite(found.value):
        return "A batch of one gives a value that is not finite."
    return ""


def _depends_on_columns(context: LossContext) -> bool:
    """Whether adding a constant to a column, not to a row, leaves the gradient alone, as a softmax over rows does.

    Distances between rows do not move with a column's constant either, but nor with the order of columns.
    """
    if context.given.layout != "rows":
        return False
    drawn = context.draw(seed=4)
    base = context.gradient(drawn)

    def moved(teacher: Tensor) -> float:
        return _gap(context.gradient({**drawn, "teacher": teacher}), base)

    teacher = drawn["teacher"]
    batch, classes = teacher.shape
    steps = torch.linspace(-2, 2, steps=max(batch, classes), dtype=torch.float64)
    if not moved(teacher + steps[:classes]) < 1e-6 < moved(teacher + steps[:batch, None]):
        return False
    return moved(teacher.roll(1, dims=1)) > 1e-6


def _row_dependence(context: LossContext, whole: Mapping[Role, Tensor]) -> tuple[float, float]:
    """By which share the gradient of the first row moves with the teacher's first row, and with the other rows."""
    other = context.draw(seed=9, lead=context.lead(8))["teacher"]
    base = context.gradient(whole)[0]
    own = {**whole, "teacher": torch.cat([other[:1], whole["teacher"][1:]])}
    rest = {**whole, "teacher": torch.cat([whole["teacher"][:1], other[1:]])}
    return _gap(context.gradient(own)[0], base), _gap(context.gradient(rest)[0], base)


@check(
    threshold="Positions with label −100, or outside the mask, get no gradient.",
    source="F.cross_entropy ignores label −100; a divergence does not unless it is masked.",
    problem="Padded positions are learnt from",
    title="Ignored positions",
)
def ignored_rows(context: LossContext) -> CheckResult:
    if context.is_of_features:
        raise Skip("It compares features.")
    layout = context.sequence_layout
    uses_labels = context.has_labels and (max(context.changes("labels")) > NOTHING or context.labels_mask)
    if layout is None or not context.is_for_sequences or not (uses_labels or context.has_mask):
        raise Skip("It takes no sequences [B, L, K] with labels or a mask; padding occurs there.")
    if not context.has_mask and context.loss.argument("labels").form == "one_hot":
        raise Skip("Its labels are a row of numbers each, of which none is −100.")
    tensors = context.draw(lead=layout)
    hidden = torch.zeros(layout, dtype=torch.bool)
    hidden[:, -1] = True
    masked = dict(tensors)
    if "labels" in masked:
        masked["labels"] = masked["labels"].masked_fill(hidden, -100)
    if "mask" in masked:
        masked["mask"] = ~hidden
    try:
        found = context.loss(masked)
    except Exception as error:
        if "mask" not in masked:
            raise Skip(f"It takes no label −100: {type(error).__name__}.") from None
        masked["labels"] = tensors["labels"]
        found = context.loss(masked)
    gradient = found.student
    if gradient is None:
        raise Skip("The loss gives the student no gradient.")
    share = float(gradient[hidden].norm() / gradient.norm().clamp(min=1e-300))
    evidence = {"share_at_ignored": share}
    if share > 1e-4 and "labels" in tensors and _leaves_out(context, tensors, hidden, -1):
        return CheckResult("ok", "Positions with label −1 get no gradient: that is its padding.", evidence)
    if not _finite(gradient) or not _finite(found.value):
        return CheckResult(
            "problem", "With ignored positions it is not finite.", evidence, Remedy("Mask before the mean.")
        )
    if share > 1e-4:
        speaks = context.has_mask or context.speaks_of_padding
        return CheckResult(
            "problem" if speaks else "warning",
            f"Positions with label −100 get {times_words(share)} of the gradient: the teacher's term counts padding"
            f"{'' if speaks else ', where there is some'}.",
            evidence,
            Remedy(
                "Leave them out of the teacher's term, too.",
                code=f"keep = {context.given.name_of_role('labels', 'labels')} != -100  # logits[keep] in every term",
            ),
        )
    if context.counts_masked_positions:
        return CheckResult(
            "problem",
            "Positions with label −100 are left out of the teacher's sum and counted in its mean: the more padding, "
            "the weaker the teacher's term against the labels'.",
            evidence,
            Remedy("Divide by the number of positions that count.", code="(kl * valid).sum() / valid.sum()"),
        )
    return CheckResult("ok", "Ignored positions get no gradient.", evidence)


def _leaves_out(context: LossContext, tensors: Tensors, hidden: Tensor, label: int) -> bool:
    """Whether positions with a label get no gradient, and those of another position do."""
    try:
        given = context.loss({**tensors, "labels": tensors["labels"].masked_fill(hidden, label)}).student
    except Exception:  # a label that it does not know, in whatever words
        return False
    if given is None or not _finite(given):
        return False
    return float(given[hidden].norm()) <= 1e-4 * float(given.norm())


@check(
    threshold="In bfloat16 and float16 the loss is finite on ordinary logits and its gradient is that of float64 to a "
    "fifth; in float32 it is finite up to logits of ±30.",
    limits=(HALF,),
    source="float16 holds nothing below 6e-8 and nothing above 65,504: an epsilon of 1e-8 is zero there.",
    problem="It breaks in half precision",
    title="Half precision and wide logits",
)
def half_precision(context: LossContext) -> CheckResult:
    scale_of = {"ordinary": 5.0}
    evidence: dict[str, float | str] = {}
    worst: tuple[float, str] = (0.0, "")
    broken = []
    for dtype, name in ((torch.bfloat16, "bfloat16"), (torch.float16, "float16")):
        drawn = context.draw(seed=5, scale=scale_of["ordinary"], lead=context.lead(16))
        rounded = {
            role: tensor.clamp(-15, 15).to(dtype).double() if tensor.is_floating_point() else tensor
            for role, tensor in drawn.items()
        }
        exact = context.loss(rounded)
        try:
            half = context.loss(rounded, dtype=dtype)
        except Exception as error:
            evidence[name] = type(error).__name__
            continue
        if exact.student is None or half.student is None or not _finite(exact.student) or not _finite(exact.value):
            raise Skip("It has no finite gradient in float64.")
        if not _finite(half.value) or not _finite(half.student):
            broken.append(name)
            evidence[name] = "not finite"
            continue
        lost = _gap(half.student, exact.student)
        evidence[name] = lost
        worst = max(worst, (lost, name))
    if broken:
        # An epsilon that holds in float64 and is lost in float16 is a guard that fails; a loss without one is loud.
        guarded = "bfloat16" in broken or context.is_guarded
        text = f"In {' and '.join(broken)} it is not finite on ordinary logits (within ±15)."
        if not context.mentions_half:
            text += " Nothing in its file uses half precision."
        return CheckResult(
            "problem" if guarded and context.mentions_half else "warning",
            text,
            evidence,
            Remedy(
                "Compute the loss in float32, and in logarithms: an epsilon inside log(softmax + eps) is lost in half.",
                code="logits = logits.float()  # then F.log_softmax(logits / T, dim=-1)",
            ),
        )
    wide = {
        role: tensor.clamp(-1, 1) * WIDE if tensor.is_floating_point() and role in ("student", "teacher") else tensor
        for role, tensor in context.draw(seed=6, lead=context.lead(16)).items()
    }
    found = context.loss(wide, dtype=torch.float32)
    if not _finite(found.value) or not _finite(found.student):
        return CheckResult(
            "problem",
            "In float32 it is not finite for logits of ±30.",
            {**evidence, "wide": "not finite"},
            Remedy("Compute in logarithms: F.log_softmax, not log(softmax)."),
        )
    hidden = context.draw(seed=7, lead=context.lead(4))
    for role in ("student", "teacher"):
        if role in hidden:
            hidden[role][..., 0] = float("-inf")
    if "labels" in hidden:
        hidden["labels"] = hidden["labels"].clamp(min=1)
    masked = context.loss(hidden)
    fine = _finite(masked.value) and (masked.student is None or _finite(masked.student[..., 1:]))
    evidence["a class masked by -inf"] = "finite" if fine else "not finite"
    if "teacher" in hidden and "student" in hidden and context.stores_minus_infinity:
        alone = context.loss({**hidden, "student": context.draw(seed=7, lead=context.lead(4))["student"]})
        if not _finite(alone.value):
            return CheckResult(
                "problem",
                "A class that the teacher's logits mask with minus infinity makes it NaN (0 · −∞), and this file masks "
                "and stores logits in half precision, where −1e9 is minus infinity.",
                evidence,
                Remedy(
                    "Use F.kl_div, which takes 0 · log 0 as 0, or mask with a number that half precision holds (−1e4).",
                    code='F.kl_div(F.log_softmax(student, -1), F.softmax(teacher.float(), -1), reduction="batchmean")',
                ),
            )
    verdict = HALF.at_least(worst[0])
    if verdict == "ok":
        return CheckResult("ok", f"Half precision changes {times_words(worst[0])} of the gradient.", evidence)
    return CheckResult(
        verdict,
        f"In {worst[1]} {times_words(worst[0])} of the gradient is lost on ordinary logits.",
        evidence,
        Remedy("Compute the loss in float32.", code="logits = logits.float()"),
    )


@check(
    threshold="Its gradient on random logits is fitted with the known family; explained where 1e-4 or less is left.",
    source="Hinton et al. (arXiv 1503.02531) for the softened terms; variable projection for the fit.",
    title="What it is",
)
def loss_identity(context: LossContext) -> CheckResult:
    if context.is_of_features:
        roles = ", ".join(sorted(role.replace("_", " ") for role in context.loss.roles))
        return CheckResult("ok", f"A loss of {roles}.", {"terms": [], "residual": None})
    fit = context.fit
    if not fit.is_known:
        return CheckResult(
            "ok",
            f"It is in no known family (the nearest leaves {times_words(min(fit.residual, 1.0))} of its gradient): "
            "its properties alone are judged.",
            {"terms": [], "residual": fit.residual},
        )
    terms = context.terms
    wrong = [term for term in terms if term.factor is not None]
    text = formula(terms) + (f", {scale_words(wrong)}" if wrong else "")
    text += _BY_CALLER if _is_made_up_for(context, terms) else ""
    return CheckResult("ok", f"{text}.", {"terms": [term.evidence() for term in terms], "residual": fit.residual})


def _title(term: FittedTerm) -> str:
    return formula([NamedTerm(term.kind, term.temperature, 1.0, 1.0, None)])
