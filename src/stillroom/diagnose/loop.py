"""What is wrong with a training loop, from what was seen of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stillroom.diagnose.check import Check, check_all
from stillroom.diagnose.checks.loop import answers, optimisation, roles, terms, values
from stillroom.diagnose.checks.loop.context import LoopContext, skill
from stillroom.diagnose.checks.loop.record import InferenceCall, Network, Phase, Schedule
from stillroom.schema.diagnosis import VERDICTS, Finding

# Causes before what follows from them.
CHECKS: tuple[Check[LoopContext], ...] = (
    roles.teacher_unused,
    roles.teacher_mode,
    roles.student_mode,
    roles.teacher_trained,
    roles.teacher_gradient,
    roles.parameters_left_out,
    roles.labels_unused,
    values.half_precision,
    values.probabilities_for_logits,
    values.batch_split,
    values.loss_finite,
    terms.roles_swapped,
    answers.weights_not_loaded,
    answers.stale_answers,
    terms.temperature_one_sided,
    terms.loss_scale,
    terms.loss_minimum,
    terms.weights_swapped,
    roles.student_no_gradient,
    answers.class_order,
    answers.teacher_input,
    answers.teacher_at_chance,
    answers.teacher_weak,
    answers.target_constant,
    values.ignored_rows,
    optimisation.clipping,
    optimisation.accumulation,
    optimisation.schedule,
    optimisation.regularisation,
    optimisation.one_class_batches,
    terms.loss_balance,
    optimisation.learning_rate,
    optimisation.skipped_steps,
    terms.loss_identity,
)
_TEACHING = ("teacher_at_chance", "teacher_weak", "target_constant")
_LOSS = ("loss_scale", "loss_balance", "loss_minimum", "loss_finite", "temperature_one_sided", "target_constant")
# A problem of one check explains those of the checks on the right: one fault, one problem.
FOLLOWS: Mapping[str, tuple[str, ...]] = {
    "teacher_unused": ("student_no_gradient", *_TEACHING),
    "teacher_mode": ("teacher_trained", "stale_answers", "teacher_input", *_TEACHING),
    "student_mode": ("learning_rate",),
    "teacher_trained": ("teacher_gradient", "clipping", "loss_balance", *_TEACHING),
    "parameters_left_out": ("loss_balance", "student_no_gradient", "learning_rate"),
    "labels_unused": ("loss_balance", "loss_scale", "weights_swapped"),
    "half_precision": ("student_no_gradient", "learning_rate", "skipped_steps", "labels_unused", *_LOSS),
    "probabilities_for_logits": ("roles_swapped", "learning_rate", "student_no_gradient", *_LOSS, *_TEACHING),
    "batch_split": ("roles_swapped", *_LOSS),
    "weights_not_loaded": ("teacher_input", "class_order", "stale_answers", *_TEACHING),
    "stale_answers": ("class_order", "teacher_input", "loss_minimum", "temperature_one_sided", *_TEACHING),
    "class_order": ("teacher_input", *_TEACHING),
    "teacher_input": _TEACHING,
    "teacher_at_chance": ("teacher_weak", "target_constant"),
    "loss_scale": ("loss_balance", "learning_rate"),
    "loss_balance": ("learning_rate",),
    "loss_finite": ("learning_rate", "skipped_steps", "loss_minimum", "student_no_gradient"),
    "loss_minimum": ("learning_rate", "loss_balance"),
    "roles_swapped": (
        *("weights_not_loaded", "loss_minimum", "loss_scale", "temperature_one_sided"),
        *("teacher_input", "class_order", *_TEACHING),
    ),
    "temperature_one_sided": ("loss_scale", "loss_minimum"),
    "weights_swapped": ("loss_balance",),
    "schedule": ("learning_rate",),
    "regularisation": ("learning_rate",),
}


def diagnose_loop(
    phases: Sequence[Phase],
    asked: Sequence[InferenceCall] = (),
    schedules: Sequence[Schedule] = (),
    *,
    nothing: str = "",
    whole_script: bool = True,
    idle: Sequence[str | None] = (),
    checks: Sequence[Check[LoopContext]] = CHECKS,
) -> list[Finding]:
    """Judge what was seen of a training loop.

    Args:
        phases: the trainings that were seen, in order; those without a teacher are not judged, except that a teacher
            may have been meant.
        asked: networks that were run without gradients outside steps.
        schedules: the learning-rate schedulers.
        nothing: why nothing was seen, where nothing was.
        whole_script: whether all that was done to the networks was seen.
        idle: the lines of steps that optimizers without gradients made.
        checks: what is checked.

    Returns:
        One finding a check; of several trainings with a teacher the worst.
    """
    trained: list[tuple[Network, float]] = []
    contexts = []
    for i, phase in enumerate(phases):
        contexts.append(LoopContext(phase, asked, schedules, terms.identify, whole_script, tuple(trained), phases[:i]))
        trained += skill(phase)
    judged = [
        context
        for context in contexts
        if context.phase.distils or context.silent_teachers is not None or context.silent_answers is not None
    ]
    missing = roles.missing_backward(idle)
    if missing is not None:
        finding = roles.student_no_gradient.finding(missing)
        why = "No gradient was made: see student_no_gradient."
        return [finding if each is roles.student_no_gradient else each.skipped(why) for each in checks]
    if not judged:
        steps = sum(phase.made for phase in phases)
        why = nothing or (
            f"There is no teacher: {steps} optimizer steps were made, and no loss is computed from the output "
            f"of a network "
            "that the optimizer does not train, nor from stored answers."
        )
        return [each.skipped(why) for each in checks]
    found: dict[str, list[Finding]] = {each.id: [] for each in checks}
    for context in judged:
        for finding in check_all(checks, context, FOLLOWS):
            found[finding.check].append(finding)
    return [min(each, key=lambda one: VERDICTS.index(one.verdict)) for each in found.values()]
