"""Checks of a loop's loss as a function: its recorded operations are computed again on random logits and identified."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from stillroom.diagnose.check import CheckResult, Limits, Skip, check
from stillroom.diagnose.checks.loop.context import LoopContext, is_adaptive, most_common
from stillroom.diagnose.checks.loop.record import Answers, ComparingTerm, Step, Term
from stillroom.diagnose.checks.loss.context import meaning_of, says_forward, says_reverse
from stillroom.diagnose.checks.loss.identify import (
    FittedTerm,
    GradientSample,
    LossFit,
    NamedTerm,
    fit_terms,
    name_terms,
    refit,
)
from stillroom.diagnose.checks.loss.words import formula, number, scale_remedy, scale_words, textbook_kl
from stillroom.schema.diagnosis import Remedy, Verdict

SCALES = (0.5, 1.0, 3.0, 8.0)
# Draws at each scale, and rows of each draw that are fitted.
DRAWS, ROWS = 2, 8
# Of the draws those of the two smaller scales: an epsilon of 1e-8 changes next to nothing there.
MILD = 4
# Logits of a batch that are drawn at the most; steps of a phase that are identified.
MOST_LOGITS, MOST_STEPS = 4_000_000, 3
# One term's weighted value above this many times the labels' leaves nothing of them where it is a sum over features.
BALANCE = Limits(
    warning=10, problem=20, why="A sum over features grows with their number; weights are made for means, which do not."
)
_PROBABILITIES = {
    "probabilities_as_log_input": "F.kl_div gets the student's probabilities, where log-probabilities are due",
    "logits_as_log_input": "F.kl_div gets the student's logits, where log-probabilities are due",
    "logits_as_target": "the target is the teacher's logits, where probabilities are due",
    "raw_logits_as_target": "the target is the teacher's logits, where probabilities are due",
    "log_probabilities_as_target": "the target is log-probabilities, where probabilities are due",
    "softmax_twice": "the teacher's answer goes through softmax twice",
    "softmax_twice_softened": "the teacher's answer goes through softmax twice",
    "softmax_twice_both": "both answers go through softmax twice",
    "softmax_twice_student": "the student's answer goes through softmax twice",
    "cross_entropy_of_probabilities": "F.cross_entropy gets probabilities, where logits are due",
    "probabilities_for_log_probabilities": "the labels' term gets probabilities, where log-probabilities are due",
}


@dataclass(frozen=True, eq=False)
class StepFit:
    """What one step's loss is."""

    answers: Answers  # what it was computed from
    fit: LossFit  # the terms that explain the gradient, of the whole loss or of what compares student and teacher
    named: tuple[NamedTerm, ...]  # the terms, with the factors that faults have put on them
    labels: bool  # whether the loss has a term of labels

    @property
    def is_known(self) -> bool:
        """Whether the loss is explained."""
        return self.fit.is_known


def _sizes(answers: Answers) -> dict[str, int]:
    sizes = [size for i, size in enumerate(answers.shape) if i != answers.class_dim]
    length = 1
    for size in sizes[1:]:
        length *= size
    return {"batch": sizes[0], "length": length, "classes": answers.shape[answers.class_dim]}


# What reductions put on a term: powers of the classes, the batch and the length, and what it is called.
_REDUCTIONS = {
    ("classes", -1): "averaged over K = {} classes (`reduction='mean'`)",
    ("batch", 1): "summed over the batch (× {0} for {0} rows)",
    ("batch", -1): "divided by the batch size once too often (÷ {0} for {0} rows)",
    ("length", 1): "summed over the L = {} positions of a sequence",
    ("length", -1): "divided by the L = {} positions once too often",
}


def _divisors(step: Step, answers: Answers) -> dict[int, tuple[str, ...]]:
    """What a sum is rightly divided by, with what it is then a mean over.

    Rows, positions or labels, of the batch or of the whole group of batches whose gradients add up in the step.
    """
    found: dict[int, tuple[str, ...]] = {}
    for group in ([answers], [each.answers for each in step.backwards if each.answers is not None]):
        every = [math.prod(each.shape) // each.shape[each.class_dim] for each in group]
        valid = [
            count if each.labels is None else int((each.labels >= 0).sum())
            for count, each in zip(every, group, strict=True)
        ]
        for counts in (valid, every):
            found[sum(counts)] = ("batch", "length")
        if sum(each.shape[0] for each in group) != sum(every):
            found[sum(each.shape[0] for each in group)] = ("batch",)
    return found


def _division(factors: Sequence[float], divisors: Mapping[int, tuple[str, ...]]) -> tuple[float, tuple[str, ...]]:
    """The factor that divides by a number of rows, and what the sum is a mean over by it; 1 where there is none.

    >>> _division([0.5, 16.0, 1 / 64], {16: ("batch", "length"), 64: ("batch", "length")})
    (0.015625, ('batch', 'length'))
    >>> _division([0.5, 1 / 52], {64: ("batch", "length"), 8: ("batch",)})  # what a mask leaves of 64 positions
    (0.019230769230769232, ('batch', 'length'))
    """
    for each in factors:
        for count, over in divisors.items():
            if count > 1 and abs(each * count - 1) < 1e-6:
                return each, over
    positions = max(divisors)
    if ("batch",) in divisors.values():
        for each in factors:
            if each > 0 and 0.5 * positions <= 1 / each <= positions and abs(1 / each - round(1 / each)) < 1e-3:
                return each, ("batch", "length")
    return 1.0, ()


def _division_by_all(factors: Sequence[float], divisors: Mapping[int, tuple[str, ...]], classes: int) -> float | None:
    """The factor that divides by a number of rows times the number of classes, as ``logits.numel()`` does.

    >>> _division_by_all([0.5, 1 / 160], {16: ("batch", "length")}, 10)
    0.00625
    """
    whole = [count * classes for count, over in divisors.items() if over == ("batch", "length")]
    return next((each for each in factors for count in whole if count > 1 and abs(each * count - 1) < 1e-6), None)


def _name_labels(term: Term, divisors: Mapping[int, tuple[str, ...]], sizes: dict[str, int]) -> NamedTerm:
    """A term of labels: a mean, or a sum, with what it is not divided by."""
    # Of a loss by hand the sign is that of the logarithm that is summed.
    coefficient = abs(term.weight) * max(term.rows, 1.0)
    over = _division(term.factors, divisors)[1] if term.rows else ("batch", "length")
    left = [name for name in ("batch", "length") if name not in over and sizes[name] > 1]
    factor = float(math.prod(sizes[name] for name in left))
    reasons = tuple(_REDUCTIONS[name, 1].format(sizes[name]) for name in left)
    return NamedTerm("cross_entropy", None, coefficient, coefficient / factor, factor if left else None, reasons)


def _reductions(ratio: float, sizes: dict[str, int]) -> list[tuple[str, int]] | None:
    """The reductions that a factor is made of, the fewest; None where it is none.

    >>> _reductions(12.0, {"batch": 16, "length": 12, "classes": 10})
    [('length', 1)]
    """
    single = [one for one in _REDUCTIONS if sizes[one[0]] > 1]
    for count in range(3):
        for chosen in itertools.combinations(single, count):
            product = 1.0
            for name, power in chosen:
                product *= float(sizes[name]) ** power
            if abs(ratio / product - 1) < 1e-3 and len({name for name, _ in chosen}) == count:
                return list(chosen)
    return None


# A term's weight up to which it needs no explanation.
_USUAL_WEIGHT = 10.0


def _temperature_fault(weight: float, factors: Sequence[float], inside: int, tau: float, others: float | None) -> int:
    """The power of τ that a softened term lacks (negative) or has too many (positive).

    A weight that holds τ² as a factor of its own is right; α·τ² that was multiplied before is recognised by what is
    left.

    Args:
        weight: what multiplies the term.
        factors: the numbers that it is the product of.
        inside: the power of τ that the term itself holds.
        tau: the temperature.
        others: the sum of the other terms' weights; None where there are none.

    >>> _temperature_fault(0.5, [0.5], 0, 8.0, 0.5), _temperature_fault(14.4, [14.4], 0, 4.0, 0.1)
    (-2, 0)
    >>> _temperature_fault(2.0, [0.5, 4.0], 0, 2.0, 2.0), _temperature_fault(16.0, [16.0], 0, 2.0, 1.0)
    (0, 0)
    >>> _temperature_fault(256.0, [256.0], 0, 4.0, 1.0), _temperature_fault(1.0125, [8.1, 0.125], 0, 3.0, 0.0125)
    (2, 0)
    """
    if abs(tau - 1) < 1e-3:
        return 0

    def is_power(value: float, power: int) -> bool:
        return abs(value / tau**power - 1) < 1e-4

    left = weight / tau**2
    # Weights that sum to 1 with τ² leave nothing to explain: at τ = 2, ½·τ² is 2, and 2 is τ as well.
    if not inside and others is not None and abs(others + left - 1) < 1e-3:
        return 0
    if not inside and others is not None and abs(others + weight - 1) < 1e-3:
        return -2
    # A number that is a power of τ may be a weight as well: ½·τ² at τ = 2 lacks nothing.
    powers = [[0, *(power for power in (1, 2, 4) if is_power(each, power))] for each in factors[:8]]
    if tau**2 <= _USUAL_WEIGHT:
        # At τ = 2, 16 is τ² with a weight of 4, multiplied before.
        powers = [[*each, 2] if 4 in each else each for each in powers]
    if any(inside + sum(chosen) == 2 for chosen in itertools.product(*powers)):
        return 0
    found = sum(max(each) for each in powers)
    if inside or found:
        return inside + found - 2
    # Of a product, as of α·τ² and the share of a part of the batch, one number alone may hold it.
    held = [left, *(each / tau**2 for each in factors)]
    could_hold = any(each > 1 for each in factors) and any(
        abs(each - float(f"{each:.2g}")) < 1e-4 * each for each in held
    )
    return 0 if could_hold else -2


def _name_term(
    one: ComparingTerm,
    fitted: FittedTerm,
    sizes: dict[str, int],
    divisors: Mapping[int, tuple[str, ...]],
    others: float | None,
) -> NamedTerm:
    """A term of teacher and student, with what is wrong with its size."""
    tau, coefficient = fitted.temperature, fitted.coefficient * one.weight
    plain = NamedTerm(fitted.kind, tau, coefficient, coefficient, None, (), fitted.smoothing)
    if fitted.kind not in ("kl", "reverse_kl", "jsd", "soft_cross_entropy") or tau is None or not one.weight:
        return plain
    # Without its weight the textbook's term has a factor of 1; a kl whose τ² stands outside has 1/τ².
    base = abs(fitted.coefficient) * (tau**2 if fitted.kind == "kl" else 1.0)
    for inside in (0, 2, 1, 4):
        reductions = _reductions(base / tau**inside, sizes)
        if reductions is None:
            continue
        # A sum that the loop divides by its number of rows is a mean: the two are one reduction.
        factors, weight = [abs(each) for each in one.factors], abs(one.weight)
        division, over = _division(factors, divisors)
        if over and ("batch", 1) in reductions:
            reductions = [each for each in reductions if each[1] < 1 or each[0] not in over]
            factors.remove(division)
            weight /= division
        elif ("batch", 1) in reductions and (whole := _division_by_all(factors, divisors, sizes["classes"])):
            # Divided by all numbers of the logits, it is a mean over the classes, too.
            reductions = [*(each for each in reductions if each[1] < 1 or each[0] == "classes"), ("classes", -1)]
            factors.remove(whole)
            weight /= whole
        for name, power in list(reductions):
            # The factor that makes up for it by itself, or in one number with τ²: K·τ² of a mean over the classes.
            made_up = float(sizes[name]) ** -power
            for whole in (made_up, made_up * tau**2):
                divided = next((each for each in factors if abs(each / whole - 1) < 1e-6), None)
                if divided is not None:
                    reductions.remove((name, power))
                    factors[factors.index(divided)] = divided / made_up
                    weight /= made_up
                    break
        fault = _temperature_fault(weight, factors, inside, tau, others)
        if fault == -1 and one.squared:
            fault = 0  # ½·τ² is τ where τ is 2, and ¼·τ² where it is 4
        factor = tau**fault
        reasons = []
        for name, power in reductions:
            factor *= float(sizes[name]) ** power
            reasons.append(_REDUCTIONS[name, power].format(sizes[name]))
        if fault:
            square = f"τ² = {tau**2:.4g}"
            reasons.append(
                {-2: f"{square} is missing", -1: f"multiplied by τ = {tau:.4g} in place of τ²"}.get(
                    fault, f"{square} is too many"
                )
            )
        usual = coefficient / factor
        return NamedTerm(fitted.kind, tau, coefficient, usual, factor if reasons else None, tuple(reasons))
    return plain


def _kl_line(term: NamedTerm, answers: Answers) -> str | None:
    """The textbook's KL for logits of a step's shape."""
    if answers.class_dim != len(answers.shape) - 1:
        return None
    rows = "" if len(answers.shape) == 2 else ".flatten(0, -2)"
    return textbook_kl(f"student_logits{rows}", f"teacher_logits{rows}", f"{term.temperature:g}")


def _draw(answers: Answers, number: int, scale: float) -> list[Tensor]:
    """Random logits of both, of the step's shapes, and random labels where the loss takes them by themselves."""
    generator = torch.Generator().manual_seed(1000 + number)
    student, teacher, *labels = answers.loss.sources
    drawn = [
        (scale * torch.randn(each.shape, generator=generator, dtype=torch.float64)).to(each.device)
        for each in (student, teacher)
    ]
    classes = answers.shape[answers.class_dim]
    for each in labels:
        other = torch.randint(classes, each.shape, generator=generator).to(each.device, each.dtype)
        drawn.append(torch.where(each < 0, each, other))
    return drawn


def _gradient(function: Callable[..., Tensor], drawn: Sequence[Tensor]) -> tuple[Tensor, float]:
    student = drawn[0].clone().requires_grad_()
    with torch.enable_grad():
        value = function(student, *drawn[1:])
    (gradient,) = torch.autograd.grad(value.sum(), student)
    return gradient, float(value.detach().sum())


def _samples(answers: Answers, function: Callable[..., Tensor]) -> list[GradientSample]:
    found = []
    dim = answers.class_dim
    for count, (scale, _) in enumerate(itertools.product(SCALES, range(DRAWS))):
        drawn = _draw(answers, count, scale)
        try:
            gradient, value = _gradient(function, drawn)
        except RuntimeError:  # a constant of the loop in another type
            drawn = [each.float() if each.is_floating_point() else each for each in drawn]
            gradient, value = _gradient(function, drawn)
        labels = drawn[2].reshape(-1) if len(drawn) > 2 else answers.labels
        flat = [each.movedim(dim, -1).reshape(-1, answers.shape[dim]) for each in (drawn[0], drawn[1], gradient)]
        # Some rows say what the loss is; the gradient of a mean over all is brought to a mean over them.
        rows = torch.linspace(0, len(flat[0]) - 1, min(ROWS, len(flat[0]))).long()
        student, teacher, gradient = (each[rows.to(each.device)] for each in flat)
        labels = labels[rows.to(labels.device)] if labels is not None else None
        found.append(GradientSample.of(student, teacher, labels, gradient * (len(flat[0]) / len(rows)), value))
    return found


def _fit(samples: Sequence[GradientSample]) -> LossFit:
    """The terms that explain the gradient; of mild logits alone, where a clamp or an epsilon acts on others."""
    fit = fit_terms(samples)
    if fit.is_known:
        return fit
    mild = fit_terms(samples[:MILD])
    return mild if mild.is_known else fit


def _of_teacher(answers: Answers) -> Callable[..., Tensor]:
    """The part of a loss that compares student and teacher."""

    def part(*drawn: Tensor) -> Tensor:
        values = [one.weight * one.function(*drawn[:2]).sum() for one in answers.teacher_terms]
        total: Tensor = torch.stack(values).sum()
        return total

    return part


def identify(context: LoopContext) -> list[StepFit]:
    """What the losses of some watched steps are.

    Raises:
        Skip: no loss takes logits of both, or none can be computed again.
    """
    usable = [
        (step, backward, each)
        for step, backward in context.backwards
        for each in [backward.answers]
        if each is not None
        and each.loss is not None
        and each.teacher is not None
        and each.loss.sources[0].numel() <= MOST_LOGITS
        and any(one.weight for one in each.teacher_terms)
        and not _is_simplex(each.teacher)
        and not _is_simplex(each.student)
        and bool(torch.isfinite(each.student).all())
    ]
    if not usable:
        raise Skip("No loss that takes logits of student and teacher was seen.")
    chosen = [usable[i] for i in sorted({0, len(usable) // 2, len(usable) - 1})][:MOST_STEPS]
    found: list[StepFit] = []
    for step, backward, answers in chosen:
        labels = [term for term in backward.terms if term.labels and term.student and not term.teacher]
        sizes, divisors = _sizes(answers), _divisors(step, answers)
        if len(answers.teacher_terms) == 1:
            # What compares both stands by itself: it is identified alone, and its weight is known.
            one = answers.teacher_terms[0]
            samples = _samples(answers, one.function)
            fit = _fit(samples) if not found else refit(found[0].fit, samples)
            if not fit.is_known and found and found[0].fit.is_known:
                fit = refit(found[0].fit, samples[:MILD])
            if fit.is_known and len(fit.terms) == 1:
                others = sum(
                    abs(each.weight) / (_division(each.factors, divisors)[0] if each.rows else 1) for each in labels
                )
                teacher = _name_term(one, fit.terms[0], sizes, divisors, others if labels else None)
                of_labels = [_name_labels(each, divisors, sizes) for each in labels]
                found.append(StepFit(answers, fit, (*of_labels, teacher), bool(labels)))
                continue
        samples = _samples(answers, answers.loss)
        fit = _fit(samples) if not found else refit(found[0].fit, samples)
        named = name_terms(fit, sizes) if fit.is_known else ()
        found.append(StepFit(answers, fit, named, bool(labels) or len(named) > 1))
        if not fit.is_known:
            break
    return found


def _is_simplex(rows: Tensor) -> bool:
    return bool((rows >= 0).all()) and bool(((rows.sum(1) - 1).abs() < 1e-3).all())


def _place(fits: Sequence[StepFit]) -> str | None:
    return most_common([each.answers.place for each in fits])


def _known(context: LoopContext) -> list[StepFit]:
    fits = context.fits
    known = [each for each in fits if each.is_known]
    if not known or not fits[0].is_known:
        raise Skip("The loss between student and teacher is in no known family.")
    return known


# Share of the way that a moving average goes in one step: 0.1 to 0.0001 are usual; a warm-up begins at 1 and falls.
AVERAGE = Limits(0.8, 0.8, "A momentum below 0.2 remembers one step; it is written 0.99 and meant for the other side.")


def _average_reversed(context: LoopContext) -> CheckResult | None:
    """A moving average that moves the student, or that keeps next to nothing of the teacher."""
    moved = [step.averaging for step in context.steps if step.averaging is not None]
    if len(moved) < 6:
        return None
    student, teacher = (sorted(getattr(each, side) for each in moved) for side in ("student", "teacher"))
    if student[len(moved) // 5] > 1e-5 and not any(teacher):
        return CheckResult(
            "problem",
            f"Between its steps the student is moved {number(median(student))} of the way to the teacher, which stays "
            "as it is: the moving average goes the other way.",
            {"share": median(student), "steps": len(moved)},
            Remedy(
                "Let the teacher follow the student.", code="teacher_parameter.mul_(m).add_(parameter, alpha=1 - m)"
            ),
        )
    if AVERAGE.warning <= teacher[0] and moved[-1].teacher < 1 - 1e-5:
        return CheckResult(
            "problem",
            f"Each step moves the teacher {number(median(teacher))} of the way to the student: what is to be kept of "
            "it and what is to be taken over are exchanged.",
            {"share": median(teacher), "steps": len(moved)},
            Remedy("Exchange m and 1 − m.", code="teacher_parameter.mul_(m).add_(parameter, alpha=1 - m)"),
        )
    return None


def _trained_one_learns(context: LoopContext) -> CheckResult | None:
    """Whether the network that was trained before learns, from a smaller one that is as it was drawn."""
    teachers, students = context.teachers, context.students
    if not teachers or not students or not context.whole_script or context.follows_student:
        return None
    drawn = all(each.fresh and not each.loaded for each in teachers)
    if not drawn or not all(each.trained_before for each in students):
        return None
    large, small = (sum(each.parameters for each in networks) for networks in (students, teachers))
    if large <= small:
        return None
    return CheckResult(
        "problem",
        f"The student {students[0].shown} was trained before and has {large / small:.3g} times the parameters of the "
        f"teacher {teachers[0].shown}, which is as it was drawn: the two are exchanged.",
        {"student_parameters": large, "teacher_parameters": small},
        Remedy(
            "Hand over student and teacher the other way round, by their names.",
            code="Distiller(student=student, teacher=teacher)",
        ),
        location=context.calls("teacher")[0][1].place if context.calls("teacher") else None,
    )


@check(
    threshold="The student's log-probabilities are the prediction, the teacher's probabilities the target, and a "
    "moving average moves the teacher, by less than 80% of the way in each step.",
    limits=(AVERAGE,),
    source="KL(teacher‖student) takes the student's log-probabilities first: F.kl_div(log_q, p).",
    problem="Student and teacher are exchanged",
    title="Student and teacher in their places",
)
def roles_swapped(context: LoopContext) -> CheckResult:
    exchanged = _average_reversed(context) or _trained_one_learns(context)
    if exchanged is not None:
        return exchanged
    known = _known(context)
    kinds = [term.kind for each in known for term in each.fit.terms]
    code = 'T**2 * F.kl_div(F.log_softmax(student / T, -1), F.softmax(teacher / T, -1), reduction="batchmean")'
    if kinds.count("swapped_cross_entropy") >= len(known):
        return CheckResult(
            "problem",
            "The student's probabilities are the target and the teacher's log-probabilities the prediction: the "
            "term is "
            "smallest where all probability lies on one class.",
            {},
            Remedy("Exchange the two: log_softmax of the student, softmax of the teacher.", code=code),
            location=_place(known),
        )
    if kinds.count("reverse_kl") >= len(known):
        by_kl_div = any(term.function == "kl_div" for each in context.backwards for term in each[1].terms)
        unmeant = (by_kl_div and not says_reverse(context.source)) or says_forward(context.source)
        verdict: Verdict = "problem" if unmeant else "warning"
        return CheckResult(
            verdict,
            "The divergence is KL(student‖teacher), which seeks one mode of the teacher's answer and leaves the "
            "others.",
            {},
            Remedy("Exchange the two, unless this is meant (then say `reverse KL` next to it).", code=code),
            location=_place(known),
        )
    return CheckResult("ok", "The teacher's answer is the target, the student's the prediction.")


_REMEDIES = {
    "logits_summed": "Average the teachers' logits.",
    "binary_one_sided": "Divide the logits of both by the same temperature.",
}
_TEMPERATURES = (
    (
        "temperature_after_softmax",
        "{} takes a softmax and a log_softmax that were divided afterwards: nothing is softened.",
        textbook_kl(),
    ),
    (
        "logits_summed",
        "{} takes the sum of several teachers' logits, at the student's temperature: it is as many times too sharp.",
        "teacher_logits = torch.stack([teacher(x) for teacher in teachers]).mean(0)",
    ),
    (
        "labels_softened",
        "{} of the labels takes the student's logits divided by the temperature of the other term.",
        "F.cross_entropy(student_logits, labels)  # of the logits as they are",
    ),
    (
        "binary_one_sided",
        "{} takes the student's logits and sigmoids of the teacher's, and the two are divided by different numbers.",
        "F.binary_cross_entropy_with_logits(student_logits / T, torch.sigmoid(teacher_logits / T))",
    ),
)


@check(
    threshold="Both sides are softened at one temperature.",
    source="At two temperatures the minimum is at other logits than the teacher's: the student is too sharp or flat.",
    problem="Only one side is softened",
    title="Temperature of both sides",
)
def temperature_one_sided(context: LoopContext) -> CheckResult:
    for kind, summary, code in _TEMPERATURES:
        if odd := context.oddities(kind):
            return CheckResult(
                "problem",
                summary.format(odd[0].function),
                {"kind": kind, "losses": len(odd)},
                Remedy(
                    _REMEDIES.get(kind, "Divide the logits that go into the softened softmax, and these alone."),
                    code=code,
                ),
                location=most_common([each.place for each in odd]),
            )
    known = _known(context)
    terms = [term for each in known for term in each.fit.terms if term.kind == "one_sided"]
    if len(terms) < len(known):
        return _softened_twice(context, known) or CheckResult("ok", "Student and teacher are softened alike.")
    student, teacher = terms[0].temperatures
    return CheckResult(
        "problem",
        f"The student is softened at τ = {number(student)}, the teacher at τ = {number(teacher)}: the term is smallest "
        f"where the student's logits are {number(student / teacher)} times the teacher's.",
        {"student_temperature": student, "teacher_temperature": teacher},
        Remedy("Divide the logits of both by the same temperature.", code=textbook_kl()),
        location=_place(known),
    )


def _softened_twice(context: LoopContext, known: Sequence[StepFit]) -> CheckResult | None:
    """Stored answers that are the teacher's logits divided by a temperature, which the loss divides once more."""
    softened = [term.temperature for each in known for term in each.fit.terms if term.kind == "kl" and term.temperature]
    tau = median(softened) if softened else 1.0
    if tau < 1.2 or not any(each.stored for _, each in context.answers):
        return None
    for network, answers in context.asked_again:
        if not answers:
            continue
        live = torch.cat([logits for _, logits in answers])
        kept = torch.cat([each.teacher[: len(logits)].float().cpu() for each, logits in answers])  # type: ignore[index]
        live, kept = (one - one.mean(1, keepdim=True) for one in (live, kept))
        scale = float((live * kept).sum() / live.square().sum().clamp_min(1e-30))
        same = float((kept - scale * live).norm()) < 0.01 * float(kept.norm())
        if same and scale > 0 and abs(1 / scale - tau) < 0.05 * tau:
            return CheckResult(
                "problem",
                f"The stored answers are the logits of {network.label} divided by {number(1 / scale)}, and the loss "
                f"divides them by τ = {number(tau)} again.",
                {"stored": 1 / scale, "temperature": tau},
                Remedy("Store the logits as they are.", code="torch.save(teacher(images), path)  # not divided"),
                location=_place(known),
            )
    return None


def _divided_again(context: LoopContext) -> CheckResult | None:
    """Means over the rows of a batch that are divided by their number once more, in a loss of no known family."""
    found: list[tuple[int, Term]] = []
    steps = [step.backwards[0] for step in context.steps if len(step.backwards) == 1]
    for backward in steps:
        terms = [term for term in backward.terms if term.teacher and term.student and term.averaged > 1]
        again = [term for term in terms if any(abs(each * term.averaged - 1) < 1e-6 for each in term.factors)]
        # A mean over as many terms as there are rows, one for each of them, is right.
        if again and len(again) < again[0].averaged:
            found.append((again[0].averaged, again[0]))
    if len(found) < 3 or len(found) < 0.8 * len(steps) or len({rows for rows, _ in found}) < 2:
        return None
    rows = sorted({rows for rows, _ in found})
    return CheckResult(
        "problem",
        f"The teacher's term is a mean over the rows, and is divided by their number once more: by {rows[-1]} in a "
        f"batch of {rows[-1]}, by {rows[0]} in one of {rows[0]}.",
        {"factor": 1 / rows[-1], "losses": len(found)},
        Remedy("Divide by the number of teachers, or of terms: len() of a tensor is its first dimension, the batch."),
        location=found[0][1].place,
    )


def _short_of_one(known: Sequence[StepFit]) -> CheckResult | None:
    """The teacher's weight is what the labels' leaves of 1, divided by the rows of the batch, in every watched step."""
    left, rows = 0.0, 0
    for each in known:
        weights = {term.name: term.coefficient for term in each.named}
        labels = weights.get("cross_entropy", weights.get("label_smoothing"))
        if len(each.named) != 2 or labels is None or "kl" not in weights:
            return None
        left, rows = 1 - labels, _sizes(each.answers)["batch"]
        # Of few rows it may be chosen so; a tenth of a per cent is what the fit leaves.
        if rows < 4 or not 0.01 < left < 0.99 or abs(weights["kl"] * rows / left - 1) > 1e-3:
            return None
    teacher = next(term for term in known[0].named if term.name == "kl")
    return CheckResult(
        "problem",
        f"{formula(known[0].named)}: the teacher's weight is {left:.3g} divided by {rows}, the rows of the batch, "
        "though the term is a mean over the rows already.",
        {"factor": 1 / rows, "losses": len(known)},
        Remedy("Leave that division out.", code=_kl_line(teacher, known[0].answers)),
        location=_place(known),
    )


@check(
    threshold="A term's size does not depend on the batch, the length, the number of classes or the temperature.",
    source="F.kl_div's default `reduction='mean'` averages over the classes, too; without τ² a softened gradient fades "
    "as 1/τ² (Hinton et al., arXiv 1503.02531).",
    problem="A term has the wrong size",
    title="Size of the terms",
)
def loss_scale(context: LoopContext) -> CheckResult:
    try:
        known = _known(context)
    except Skip:
        found = _divided_again(context)
        if found is None:
            raise
        return found
    named = [each.named for each in known]
    wrong = [term for term in named[0] if term.factor is not None]
    evidence = {"terms": [term.evidence() for term in named[0]], "residual": known[0].fit.residual}
    # What is a fault in one step and none in another is a weight that changes.
    reasons = {tuple(term.reasons for term in terms) for terms in named}
    if not wrong or len({tuple(bool(each) for each in one) for one in reasons}) > 1:
        again = (_short_of_one(known) or _divided_again(context)) if not wrong else None
        return again or CheckResult("ok", f"The loss is {formula(named[0])}.", evidence)
    heard = [term for term in named[0] if term.coefficient]
    different = len(heard) > 1 and len({f"{term.factor or 1:.3g}" for term in heard}) > 1
    by_classes = any("classes" in reason for term in wrong for reason in term.reasons)
    whole = all(sum(each.student for each in backward.terms) <= len(named[0]) for _, backward in context.described)
    optimizers = {step.optimizer for step in context.steps}
    rescales = whole and not different and all(map(is_adaptive, optimizers))
    verdict: Verdict = "problem" if different or (by_classes and not rescales) else "warning"
    also = ""
    if verdict == "problem" and _is_forgetting_term(context, wrong):
        verdict = "warning"
        also = " Learning without Forgetting is published so; its weight makes up for it."
    elif verdict == "warning" and whole:
        acts = (
            f"and {min(optimizers)} divides gradients by their size"
            if rescales
            else "so that it acts as a learning rate"
        )
        also = f" All of the loss has this factor, {acts}."
    return CheckResult(
        verdict,
        f"{formula(named[0])}, {scale_words(wrong)}.{also}",
        evidence,
        Remedy(
            scale_remedy(wrong, rows="all rows, those of a sequence, too"),
            code=next((_kl_line(term, known[0].answers) for term in wrong if term.name == "kl"), None),
        ),
        location=_place(known),
    )


def _is_forgetting_term(context: LoopContext, wrong: Sequence[NamedTerm]) -> bool:
    """Whether all that is wrong is a missing τ² of 4 at most, and the teacher is what the student was before a task."""
    pairs = list(itertools.product(context.teachers, context.students))
    if not pairs or any(teacher.fresh or not student.trained_before for teacher, student in pairs):
        return False
    # The student may have got a layer of its own for the new classes.
    shapes = [(Counter(teacher.shape), Counter(student.shape)) for teacher, student in pairs]
    older = all(not one - other and sum((other - one).values()) <= 2 for one, other in shapes)
    small = all(each.temperature is not None and each.temperature <= 2 for each in wrong)
    return older and small and all("is missing" in one for each in wrong for one in each.reasons)


@check(
    threshold="A weight that is said to be the teacher's share multiplies the teacher's term, and one of the "
    "labels theirs.",
    source="α and 1 − α are exchanged without a trace where α is a half.",
    problem="The weights are exchanged",
    title="Weights of the terms",
)
def weights_swapped(context: LoopContext) -> CheckResult:
    seen = 0
    for _, backward in context.backwards:
        sides: dict[str, list[Term]] = {
            "teacher": [term for term in backward.terms if term.teacher and term.student],
            "labels": [term for term in backward.terms if term.labels and term.student and not term.teacher],
        }
        if not sides["teacher"] or not sides["labels"]:
            continue
        seen += 1
        for side, terms in sides.items():
            for term in terms:
                for words in term.weight_lists:
                    said = meaning_of(words.replace(" ", "_"), "")[0]
                    if said is not None and said != side:
                        return CheckResult(
                            "problem",
                            f"The weight {term.weight:g}, which a comment at its list calls {words!r}, multiplies the "
                            f"{_WHOSE[side]} term.",
                            {"option": words, "multiplies": side, "said": said},
                            Remedy("Put the weights and the terms into one order, or name both in dictionaries."),
                            location=term.place,
                        )
                for name, complement in term.weight_names:
                    said, words = meaning_of(name, term.words)
                    if said is None:
                        continue
                    meant = said if not complement else {"teacher": "labels", "labels": "teacher"}[said]
                    if meant != side:
                        shown = f"1 − {name}" if complement else name
                        return CheckResult(
                            "problem",
                            f"{shown} multiplies the {_WHOSE[side]} term, and "
                            f"{words!r} says that "
                            f"{name} is the {_WHOSE[said]}.",
                            {"option": name, "multiplies": side, "said": said},
                            Remedy(f"Exchange {name} and 1 − {name}."),
                            location=term.place,
                        )
    if not seen:
        raise Skip("No loss with a term of labels and one of the teacher was seen.")
    return CheckResult("ok", "No weight is said to be of one term and multiplies another.")


# A mean that is so many times the labels' value is not on their scale, either.
DROWNED = 1000
_WHOSE = {"teacher": "teacher's", "labels": "labels'"}


@check(
    threshold="A term that compares features leaves the labels' term its part: less than 20 times its weighted value, "
    "where it is a sum over features, and less than 1,000 times where it is a mean.",
    limits=(BALANCE,),
    source="A sum over channels and places is their number times the mean; after clipping nothing is left of "
    "the labels.",
    problem="One term drowns the others",
    title="Balance of the terms",
)
def loss_balance(context: LoopContext) -> CheckResult:
    ratios: list[float] = []
    still_to_learn: list[float] = []
    worst: Term | None = None
    for _, backward in context.backwards:
        labels = [t for t in backward.terms if t.labels and t.student and not t.teacher and t.value is not None]
        others = [t for t in backward.terms if t.teacher and t.student and t.value is not None]
        base = sum(abs(t.weight * (t.value or 0.0)) for t in labels)
        still_to_learn.append(max((abs(t.value or 0.0) for t in labels), default=0.0))
        if not labels or not others or base <= 0:
            continue
        top = max(others, key=lambda t: abs(t.weight * (t.value or 0.0)))
        ratios.append(abs(top.weight * (top.value or 0.0)) / base)
        worst = top
    if not ratios or worst is None:
        raise Skip("No loss with a term of labels and one of the teacher was seen.")
    ratio = median(ratios)
    evidence = {"ratio": ratio, "losses": len(ratios), "summed": worst.summed}
    verdict = BALANCE.at_least(ratio)
    known = (each.answers for _, each in context.backwards if each.answers is not None)
    of_classes = worst.function == "kl_div" and worst.summed in {each.shape[each.class_dim] for each in known}
    if worst.summed < 16 or of_classes:  # a divergence is a sum over the classes
        # From the first step on: weights may be ramped up, and labels that are learned have a small term by themselves.
        learning = median(still_to_learn) > 0.1
        # The value of a softened divergence says little of its gradient; its size is loss_scale's.
        small = ratio < 100 or not learning or worst.function in ("kl_div", "cross_entropy")
        verdict = "problem" if min(ratios) >= DROWNED and learning else "ok" if small else "warning"
    if verdict == "ok":
        return CheckResult("ok", f"The teacher's term is {ratio:.2g} times the labels' in value.", evidence)
    summed = f", a sum over {worst.summed:.0f} numbers of each row" if worst.summed >= 16 and not of_classes else ""
    return CheckResult(
        verdict,
        f"{worst.function} at {worst.place} is {ratio:.3g} times the labels' term in value{summed}.",
        evidence,
        Remedy(
            "Average it over the features, or lower its weight.",
            code='F.mse_loss(student, teacher)  # reduction="mean"',
        ),
        location=worst.place,
    )


def row_shift(answers: Answers) -> int:
    """By how many rows, or positions of a sequence, the teacher's answer stands before the student's that it teaches.

    Measured: one of the teacher's is changed, and the gradient of one other row of the student's changes. 0 where its
    own does, or those of several, or where the logits have other forms than [B, K] and [B, L, K].
    """
    along = len(answers.shape) - 2
    if along not in (0, 1) or answers.class_dim != along + 1 or answers.shape[along] < 4:
        return 0
    part = _of_teacher(answers)
    drawn = [each.float() if each.is_floating_point() else each for each in _draw(answers, 55, 1.0)]
    row = answers.shape[along] // 2
    other = [each.clone() for each in drawn]
    other[1].select(along, row).mul_(-1.0)
    change = (_gradient(part, drawn)[0] - _gradient(part, other)[0]).abs()
    sizes = change.amax([each for each in range(change.dim()) if each != along])
    moved = (sizes > 1e-4 * sizes.max()).nonzero().flatten().tolist() if bool(sizes.max() > 0) else []
    return moved[0] - row if len(moved) == 1 else 0


def read_labels(answers: Answers) -> Tensor:
    """The class that the terms without the teacher pull each row to, of the form of the logits; -1 where none does."""
    drawn = [each.float() if each.is_floating_point() else each for each in answers.loss.sources]
    drawn[0] = torch.zeros_like(drawn[0])
    gradient = _gradient(answers.loss, drawn)[0] - _gradient(_of_teacher(answers), drawn)[0]
    gradient = gradient.movedim(answers.class_dim, -1)
    lowest, labels = gradient.min(-1)
    return torch.where(lowest < -1e-8, labels, -1)


def descent_agreement(answers: Answers) -> float | None:
    """Minimising what compares student and teacher over free logits: the share of rows that end with its decision.

    The teacher's own logits are taken: with several teachers, the others' answers are constants of the recorded loss.
    Rows without a gradient, as those of a mask, are left out. None where a row's gradient depends on other rows, as in
    a loss of relations.
    """
    part = _of_teacher(answers) if answers.teacher_terms else answers.loss
    drawn = [each.float() if each.is_floating_point() else each for each in _draw(answers, 77, 2.0)]
    if answers.teacher is not None and answers.teacher.shape == drawn[1].shape:
        drawn[1] = answers.teacher.detach().to(drawn[1])
    dim = answers.class_dim
    if len(drawn[0]) > 3:
        other = [each.clone() for each in drawn]
        other[0][0] = -other[0][0]
        one, two = _gradient(part, drawn)[0], _gradient(part, other)[0]
        if float((one[2:] - two[2:]).norm()) > 1e-3 * float(one[2:].norm()):
            return None
    student = _minimised(part, drawn)
    if not bool(torch.isfinite(student).all()):
        return 0.0
    change = (student - drawn[0]).abs()
    moved = change.amax(dim) > 0
    if not bool(moved.any()):
        return None
    by_class = _agreement_by_class(part, drawn, student, dim, alone=bool(answers.teacher_terms))
    # Of some classes alone, as those of an older task, the decision among them.
    columns = (change.movedim(dim, -1).flatten(0, -2).amax(0) > 0).nonzero().flatten()
    student, teacher = (_without_labelled(each, change, answers.labels, dim) for each in (student, drawn[1]))
    student, teacher = (each.index_select(dim, columns) for each in (student, teacher))
    # Of a network that has learnt nothing yet the decision is one of many.
    first, second = teacher.softmax(dim).topk(2, dim).values.unbind(dim)
    moved &= first - second > 0.02
    if int(moved.sum()) < 4:
        return by_class or None
    return max(by_class, float((student.argmax(dim) == teacher.argmax(dim))[moved].float().mean()))


def _without_labelled(logits: Tensor, change: Tensor, labels: Tensor | None, dim: int) -> Tensor:
    """Logits for the decision among the other classes, where a term leaves each row's labelled class out.

    Args:
        change: what a descent moved of the student's logits: nothing of the labelled class, and all else.
    """
    still = change.movedim(dim, -1).flatten(0, -2) == 0
    if labels is None or len(labels) != len(still) or int(still.sum()) != len(still):
        return logits
    if not bool(still.gather(1, labels.to(still.device).long().clamp(min=0)[:, None]).all()):
        return logits
    return logits.masked_fill(change == 0, -1e4)


def _minimised(loss: Callable[..., Tensor], drawn: Sequence[Tensor]) -> Tensor:
    """The student's logits after a descent of the loss in them."""
    student = drawn[0].clone()
    # Adam by hand: an optimizer of torch's would call the hooks of the user's script.
    mean, square = torch.zeros_like(student), torch.zeros_like(student)
    for step in range(1, 61):
        gradient = _gradient(loss, [student, *drawn[1:]])[0]
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient.square()
        # With ever smaller steps: the teacher's decision may be one of small differences.
        rate = 0.5 if step <= 40 else 0.5 * (61 - step) / 21
        student = student - rate * mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
    return student


def _agreement_by_class(
    loss: Callable[..., Tensor], drawn: Sequence[Tensor], student: Tensor, dim: int, *, alone: bool
) -> float:
    """Where each class is a question of its own, as in several labels, the share of answers that the student takes.

    The largest of several sigmoids is no decision. Of a loss without labels (``alone``) probabilities, to .03, and of
    answers less sure than the teacher's, at which every loss of the right sign ends; of one with labels in it its
    decisions, yes above 0 and no below. 0 where a logit's gradient depends on another logit.
    """
    changed = drawn[0].clone()
    changed.select(dim, 0).neg_()
    rest = torch.arange(1, changed.shape[dim], device=changed.device)
    one, two = (_gradient(loss, [each, *drawn[1:]])[0].index_select(dim, rest) for each in (drawn[0], changed))
    if float((one - two).norm()) > 1e-5 * float(one.norm()):
        return 0.0
    if not alone:
        decided = drawn[1].abs() > 0.05
        agree = (student > 0) == (drawn[1] > 0)
        return float(agree[decided].float().mean()) if bool(decided.any()) else 0.0
    unsure = drawn[1] / max(1.0, float(drawn[1].abs().mean()))
    near = _minimised(loss, [drawn[0], unsure, *drawn[2:]]).sigmoid() - unsure.sigmoid()
    return float((near.abs() < 0.03).float().mean())


def _masked_on_one_side(context: LoopContext) -> CheckResult | None:
    """A divergence whose target has mass on classes that are masked for the student alone."""
    odd = context.oddities("masked_on_one_side")
    if not odd:
        return None
    return CheckResult(
        "problem",
        "Classes are masked in the student's logits and not in the target's: the target gives them a share that the "
        "student cannot have, and what is left for the other classes shrinks by it.",
        {"losses": len(odd)},
        Remedy(
            "Mask the same classes on both sides, before the softmax.",
            code="q = F.softmax(teacher_logits / T - 1000.0 * mask, dim=1)",
        ),
        location=most_common([each.place for each in odd]),
    )


@check(
    threshold="Minimised over free logits, the term between student and teacher ends at the teacher's decision "
    "in 70% of "
    "rows.",
    source="A loss that is not least at the teacher's answer pulls the student elsewhere.",
    problem="The term is not least at the teacher's answer",
    title="Minimum of the loss",
)
def loss_minimum(context: LoopContext) -> CheckResult:
    apart = [term for _, backward in context.backwards for term in backward.terms if term.apart]
    if len(apart) > 0.5 * len(context.backwards):
        what = "is added, so that it is made small" if apart[0].weight > 0 else "has a negative weight"
        return CheckResult(
            "problem",
            f"{apart[0].function} between student and teacher {what}: the term pushes them apart.",
            {"losses": len(apart), "weight": apart[0].weight},
            Remedy(
                "Change its sign.", code="loss = loss + weight * (1 - F.cosine_similarity(student, teacher).mean())"
            ),
            location=most_common([term.place for term in apart]),
        )
    if (masked := _masked_on_one_side(context)) is not None:
        return masked
    fits = context.fits
    known = [each for each in fits if each.is_known]
    if fits[0].is_known:
        faulty = [term.kind for each in known for term in each.fit.terms if term.kind in _PROBABILITIES]
        if len(faulty) >= len(known):
            return CheckResult(
                "problem",
                f"{_PROBABILITIES[faulty[0]][:1].upper()}{_PROBABILITIES[faulty[0]][1:]}.",
                {"form": faulty[0]},
                Remedy("Give softmaxes logits, and F.kl_div log_softmax of the student and softmax of the teacher."),
                location=_place(known),
            )
        weights = [term.coefficient for each in known for term in each.named if term.name in ("kl", "logit_mse")]
        if weights and max(weights) < 0:
            return CheckResult(
                "problem",
                "The term between student and teacher has a negative weight: it pushes them apart.",
                {"coefficient": weights[0]},
                Remedy("Change its sign."),
                location=_place(known),
            )
        return CheckResult("ok", f"The loss is {formula(known[0].named)}.")
    if fits[0].answers.reordered:
        raise Skip("The loss picks or mixes rows of the teacher's answers.")
    if not fits[0].answers.of_classes:
        raise Skip("The loss compares features: they have no decision.")
    agreement = descent_agreement(fits[0].answers)
    if agreement is None:
        raise Skip("The loss compares rows with each other.")
    evidence = {"agreement": agreement, "residual": fits[0].fit.residual}
    if agreement >= 0.7:
        return CheckResult(
            "ok", f"Minimised over free logits, it ends at the teacher's decision in {agreement:.0%}.", evidence
        )
    return CheckResult(
        "problem",
        f"The term between student and teacher is not least at the teacher's answer: minimised over free logits, it "
        f"ends at the teacher's decision in {agreement:.0%} of rows.",
        evidence,
        Remedy(
            "Compare both sides in one form, logits or probabilities or their logarithms, and sum each row's "
            "divergence over the classes before it is clipped, weighted or averaged."
        ),
        location=_place(fits),
    )


@check(
    threshold="None: it says what the loss is.",
    source="A least-squares fit of the gradient on random logits.",
    title="What the loss is",
)
def loss_identity(context: LoopContext) -> CheckResult:
    known = _known(context)
    terms = known[0].named
    evidence = {"terms": [term.evidence() for term in terms], "residual": known[0].fit.residual}
    return CheckResult("ok", f"The loss is {formula(terms)}.", evidence, location=_place(known))
