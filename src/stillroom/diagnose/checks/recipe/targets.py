"""The check of a teacher of multi-label or regression data before training: whether it knows anything of the labels."""

from __future__ import annotations

import numpy as np

from stillroom.diagnose.chance import NOTHING, is_near_chance
from stillroom.diagnose.check import CheckResult, Skip, check
from stillroom.diagnose.checks.recipe.context import CheckContext
from stillroom.schema.diagnosis import Remedy, Verdict
from stillroom.schema.measures import chance_level, figures_of, measure_outputs, why_not_measurable
from stillroom.tasks import TASK_INFO, TASKS

_WORDS = (
    "Check the teacher's weights, its preprocess, and the order and unit of its outputs: `stillroom evaluate --task` "
    "with the same weights shows what they are."
)


@check(
    threshold=f"Problem: on test $images less than {NOTHING:.0%} of the way from a model that ignores the $image (R² "
    "of 0; mAP as large as the classes are frequent) to a perfect one, or outputs that are not finite.",
    source="A teacher that knows nothing of the labels teaches nothing of them.",
    problem="The teacher is at chance",
    title="Level of the teacher",
    tasks=TASKS[1:],
)
def teacher_at_chance(context: CheckContext) -> CheckResult:
    """Whether the teacher knows more than a model that ignores the image."""
    outputs, names = context.test_outputs.numpy(), context.run_context.data.test.class_names
    labels = context.test_sample.labels.numpy()
    if not bool(np.isfinite(outputs).all()):
        return CheckResult("problem", "The teacher's outputs are not finite.", {}, Remedy(_WORDS))
    if outputs.shape != labels.shape:
        raise Skip(f"The teacher gives {outputs.shape[1]} outputs for {labels.shape[1]}.")
    if why := why_not_measurable(context.task, labels, names):
        raise Skip(f"The test $images that are looked at lack {why}.")
    found, measure = figures_of(measure_outputs(context.task, outputs, labels, names)), TASK_INFO[context.task].primary
    chance, level = chance_level(context.task, labels), found[measure.name]
    summary = (
        f"The teacher's {measure.title} is {measure.written(level)} on {len(labels):,} test $images; chance is "
        f"{measure.written(chance)}."
    )
    if context.task == "multi_label" and bool(((outputs >= 0) & (outputs <= 1)).all()):
        words = "Give logits: leave out the sigmoid at the teacher's end, which the losses apply themselves."
        form = f"The teacher gives probabilities, from {outputs.min():.3g} to {outputs.max():.3g}, not logits."
        return CheckResult("problem", form, found, Remedy(words))
    verdict: Verdict = "problem" if is_near_chance(measure, level, chance) else "ok"
    return CheckResult(verdict, summary, {**found, "chance": chance}, Remedy(_WORDS))


CHECKS = (teacher_at_chance,)
