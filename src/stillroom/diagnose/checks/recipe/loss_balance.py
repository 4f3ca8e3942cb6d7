"""Check of the loss terms' gradients: relative to each other, and to what the learning rate is for."""

from __future__ import annotations

from typing import Any

from stillroom.diagnose.check import CheckResult, Limits, check
from stillroom.diagnose.checks.recipe.context import CheckContext
from stillroom.diagnose.checks.recipe.gradients import IMAGES
from stillroom.diagnose.checks.recipe.temperature import sharp_target_remedy
from stillroom.diagnose.remedies import scaled_weight, taught_weight
from stillroom.schema.diagnosis import Plot, Remedy, Verdict
from stillroom.tasks import TASKS

TEACHER = Limits(
    warning=0.1,
    problem=0.02,
    why="gradient of the teacher's terms over that of the labels': below, it moves the weights less than another order "
    "of the images does; the checks of a run use the same limits",
)
# Gradient of the labels' terms over that of the teacher's: 1/10 to 1/30 in runs that go well with .1 labels and .9 kl.
_LABELS = 0.003
# A loss whose gradient is smaller than so many times that of plain labels is not what makes the rate too high.
_LARGE = 5.0
RATE = Limits(
    warning=1.0,
    problem=1.5,
    why="peak rate of sgd times the ratio of the loss's gradient to that of plain labels: .1 to .3 in runs that "
    "go well; a student of digits lost 10 to 25 points at 2 and all of them at 6",
)


def effective_rate(context: CheckContext, relative_gradient: float) -> float | None:
    """The peak rate at which sgd with a momentum of .9 would move plain labels as this loss is moved.

    None where the size of a gradient does not matter: AdamW divides by it, clipping bounds it.
    """
    training = context.recipe.training
    optimizer = training.optimizer
    if optimizer.name != "sgd" or training.clip_norm is not None:
        return None
    return relative_gradient * optimizer.lr * 0.1 / (1 - optimizer.momentum)


@check(
    threshold=(
        f"Norms of gradients in the student's weights before training, over {IMAGES} $images. Problem: that of the "
        f"teacher's terms is less than {TEACHER.problem:.0%} of the labels' (warning below {TEACHER.warning:.0%}); or "
        f"that of the whole loss is so much larger than that of plain labels ({_LARGE:g} times or more) that the rate "
        f"comes to {RATE.problem:g} or more (warning from {RATE.warning:g}), counted for sgd with a momentum of .9: "
        "students of digits at .1 and this loss lost 10 to 25 points at 2, and all at 6. A weight that follows a "
        "schedule counts by the learning rate of its steps. Warning: that of the labels "
        f"is less than {_LABELS:.1%} of the teacher's."
    ),
    source="kl carries τ², so its gradient does not fade with τ, and a weight above 1 is a larger learning rate too.",
    limits=[TEACHER, RATE],
    tasks=TASKS,
)
def loss_balance(context: CheckContext) -> CheckResult:
    """Whether neither the teacher's terms nor the labels' are negligible next to the other."""
    context.require_distillation()
    norms = context.gradients
    schedule, total = context.recipe.training.schedule, context.total_steps
    weighted = {
        term.name: taught_weight(term.config, schedule, total) * norms.terms[term.name] for term in context.losses
    }
    teacher = sum(weighted[term.name] for term in context.teacher_losses)
    labels = sum(weighted[term.name] for term in context.label_losses)
    plain = max(norms.plain, 1e-30)
    relative = (teacher + labels) / plain
    rate = effective_rate(context, relative)
    evidence: dict[str, Any] = {
        "teacher_over_labels": teacher / labels if labels else None,
        "loss_over_plain_labels": relative,
        "effective_rate": rate,
        "norms": weighted,
        "cosines_with_labels": norms.cosines,
    }
    verdict, summary = _judge(context, teacher, labels, plain, rate)
    # As large as that of the labels alone.
    factor = plain / max(teacher, 1e-30)
    overrides = {
        context.option_path(term, "weight"): scaled_weight(term.config, factor) for term in context.teacher_losses
    }
    remedy = Remedy("Weight the teacher so that its gradient is as large as that of labels alone.", overrides)
    if verdict != "ok" and teacher < labels and (sharp := sharp_target_remedy(context)) is not None:
        verdict = "warning"
        summary = f"{summary[:-1]}: at its temperature the teacher's Fisher weights vanish; see temperature."
        remedy = sharp
    values = tuple(round(norm, 5) for norm in weighted.values())
    plot = Plot("bars", "Weighted gradient norm of each term", tuple(weighted), values, "", "norm × weight")
    return CheckResult(verdict, summary, evidence, remedy, [plot])


def _judge(
    context: CheckContext, teacher: float, labels: float, plain: float, rate: float | None
) -> tuple[Verdict, str]:
    names = " and ".join(term.name for term in context.teacher_losses)
    if labels and teacher < TEACHER.warning * labels:
        verdict: Verdict = "problem" if teacher < TEACHER.problem * labels else "warning"
        share = f"{100 * teacher / labels:.2g}%"
        return verdict, f"The teacher has almost no effect: the gradient of {names} is {share} of the labels'."
    relative = (teacher + labels) / plain
    if rate is not None and rate >= RATE.warning and relative >= _LARGE:
        lr = context.recipe.training.optimizer.lr
        summary = (
            f"The loss's gradient is {relative:.3g} times that of labels alone: a learning rate of {lr:g} acts like "
            f"one of {rate:.2g}."
        )
        if labels and labels < teacher / 30:
            summary = f"{summary[:-1]}, and the labels are {100 * labels / teacher:.2g}% of it."
        return RATE.at_least(rate), summary
    if labels and labels < _LABELS * teacher:
        share = f"{100 * labels / teacher:.2g}%"
        return "warning", f"The labels have almost no effect: their gradient is {share} of that of {names}."
    if not labels:
        return "ok", f"The gradient of {names} alone is {teacher / plain:.2g} times that of labels."
    return "ok", f"The gradient of {names} is {teacher / labels:.2g} times that of the labels; both have an effect."
