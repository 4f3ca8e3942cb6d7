"""Checks of the loss as a whole: whether it can be computed before training, and whether it reads the teacher."""

from __future__ import annotations

from stillroom.diagnose.check import CheckResult, Skip, check, percent
from stillroom.diagnose.checks.recipe.context import CheckContext
from stillroom.diagnose.checks.recipe.gradients import IMAGES, reads_features
from stillroom.losses.registry import default_teacher_loss
from stillroom.schema.diagnosis import Remedy
from stillroom.tasks import TASKS

# How far another image's teacher logits move the gradient of a loss that reads them, at the least.
_MOVED = 1e-6


@check(
    threshold=(
        f"Problem: a term of the loss raises an exception, gives no scalar, or has a value or a gradient that is not "
        f"finite, over {IMAGES} $images before anything is trained."
    ),
    source="What is not finite stays so, and no learning rate is to blame before the first step.",
    problem="The loss cannot be computed",
    title="Value and gradient of the loss",
    tasks=TASKS,
)
def loss_finite(context: CheckContext) -> CheckResult:
    """Whether each term of the loss can be computed."""
    trial = context.loss_trial
    if trial.problem is None:
        shown = ", ".join(f"{name} is {value:.4g}" for name, value in trial.values.items())
        return CheckResult("ok", f"Before training {shown}, with finite gradients.", {"values": trial.values})
    words = "Mend the loss: a scalar, computed from log_softmax in float32; look for a division or a logarithm of 0."
    return CheckResult("problem", trial.problem, {"term": trial.faulty}, Remedy(words))


@check(
    threshold=(
        "Problem: the recipe has a teacher and no loss term reads it, or each term that does has the same gradient, to "
        "a millionth, with the teacher's logits of other $images."
    ),
    source="A loss that does not read the teacher distils nothing.",
    problem="No loss term reads the teacher",
    title="Use of the teacher",
    tasks=TASKS,
)
def teacher_unused(context: CheckContext) -> CheckResult:
    """Whether the teacher's outputs matter to the loss."""
    if context.recipe.teacher is None:
        raise Skip("The recipe has no teacher.")
    if not context.teacher_losses:
        words = "Add a loss that reads it, or leave the teacher out: it costs time and teaches nothing."
        losses = [*(term.model_dump(mode="json") for term in context.recipe.losses), default_teacher_loss()]
        summary = f"The recipe has a teacher, {context.recipe.teacher.name}, and no loss term reads it."
        return CheckResult("problem", summary, {}, Remedy(words, {"losses": losses}))
    moved = context.gradients.moved
    if not moved:
        read = "features of the teacher" if reads_features(context.losses) else "the teacher's mean answers"
        raise Skip(f"The loss reads {read}: whether its logits matter is not asked.")
    largest = max(moved.values())
    names = " and ".join(moved)
    if largest > _MOVED:
        summary = f"Other $images' teacher logits change the gradient of {names} by {percent(min(largest, 1.0))}."
        return CheckResult("ok", summary, {"gradient_moved": moved})
    summary = f"The gradient of {names} is the same with the teacher's logits of other $images: the loss ignores them."
    return CheckResult("problem", summary, {"gradient_moved": moved}, Remedy("Put the teacher's logits into the loss."))
