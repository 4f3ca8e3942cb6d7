"""Checks of a run on multi-label or regression data: whether it learned, was better before, or than without a teacher.

The verdicts go by the measure of the task, mAP or R², and by the loss of each test image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stillroom.diagnose.chance import NOTHING, is_near_chance
from stillroom.diagnose.check import CheckResult, Skip, check
from stillroom.diagnose.checks.run import quantities
from stillroom.diagnose.checks.run.record import RunRecord
from stillroom.losses.registry import default_losses
from stillroom.schema.diagnosis import Remedy, Verdict
from stillroom.schema.measures import chance_level
from stillroom.schema.predictions import Predictions, loss_gap
from stillroom.tasks import TASK_INFO, TASKS, Measure, Task
from stillroom.wording import counted

_OTHERS: tuple[Task, ...] = TASKS[1:]
# Share of the way from chance to the best evaluation that is lost at the end.
_LOST_WARNING, _LOST_PROBLEM = 0.05, 0.2


def _primary(run: RunRecord) -> Measure:
    return TASK_INFO[run.task].primary


def _levels(run: RunRecord) -> Sequence[float]:
    levels = quantities.series(run.test, _primary(run).name)[1]
    if not levels:
        raise Skip("The run logged no evaluation.")
    return levels


def _held(run: RunRecord) -> Predictions:
    if run.predictions is None:
        raise Skip("The run did not end." if not run.finished else "The run's folder holds no predictions.")
    return run.predictions


def _chance(run: RunRecord) -> float:
    return chance_level(run.task, _held(run).labels)


@check(
    threshold=f"Problem: less than {NOTHING:.0%} of the way from a model that ignores the $image (R² of 0; mAP as "
    "large as the classes are frequent) to a perfect one.",
    source="Such a model gives each image the same outputs.",
    problem="The student learned nothing",
    title="Level of the student",
    tasks=_OTHERS,
)
def student_at_chance(run: RunRecord) -> CheckResult:
    """Whether the student is better than a model that ignores the image."""
    measure, level, chance = _primary(run), _levels(run)[-1], _chance(run)
    evidence = {measure.name: level, "chance": chance, "first_loss": run.losses[0] if run.losses else None}
    ignorant = f"a model that ignores the $image has {measure.written(chance)}"
    shown = f"{measure.title} is {measure.written(level)}; {ignorant}"
    if not is_near_chance(measure, level, chance):
        return CheckResult("ok", f"{shown}.", evidence)
    words = "Lower the learning rate tenfold where the loss rose, train for longer where it fell"
    more = ", or divide targets by their standard deviation" if run.task == "regression" else ""
    rate = run.peak_rate
    overrides = {"training.optimizer.lr": rate / 10} if rate and quantities.loss_rise(run)[1] else {}
    return CheckResult("problem", f"{shown}.", evidence, Remedy(f"{words}{more}.", overrides))


@check(
    threshold=f"Share of what the student had gained over chance at its best evaluation and lost until the last: "
    f"warning from {_LOST_WARNING:.0%}, problem from {_LOST_PROBLEM:.0%}.",
    source="A student that overfits is best before the end; noise between evaluations is smaller.",
    problem="The student was better before the end",
    title="Best evaluation",
    tasks=_OTHERS,
)
def past_its_best(run: RunRecord) -> CheckResult:
    """Whether an earlier evaluation was better than the last."""
    measure, levels, chance = _primary(run), _levels(run), _chance(run)
    epochs = quantities.series(run.test, measure.name)[0]
    if len(levels) < 3:
        raise Skip("Fewer than 3 evaluations were logged.")
    place = max(range(len(levels)), key=lambda one: levels[one])
    best, last = levels[place], levels[-1]
    lost = (best - last) / (best - chance) if best > chance else 0.0
    verdict: Verdict = "problem" if lost >= _LOST_PROBLEM else "warning" if lost >= _LOST_WARNING else "ok"
    shown = f"{measure.title} is {measure.written(last)} at the end, and was {measure.written(best)}"
    summary = f"{shown} after {counted(round(epochs[place]), 'epoch')}."
    plots = quantities.evaluation_plot(run, measure.name, f"{measure.title} on the test $images", measure.title)
    remedy = Remedy("Use more $images, augmentation or weight decay, or stop there.")
    return CheckResult(verdict, summary, {"best": best, "last": last, "lost": lost}, remedy, plots)


@check(
    threshold="Problem: the mean loss of a test $image is larger than that of the same student from labels alone, by "
    "more than twice what another draw of test $images would change; warning: by more than once.",
    source="One run of each shows no spread between seeds; `stillroom compare` does.",
    problem="Distilling made the student worse",
    title="Distilled against labels alone",
    tasks=_OTHERS,
)
def below_labels(run: RunRecord) -> CheckResult:
    """Whether the distilled student is worse than the same student from labels alone."""
    if not run.is_distilled:
        raise Skip("No loss term reads a teacher.")
    held = _held(run)
    there = [one.predictions for one in run.baselines if one.predictions is not None]
    other = next((one for one in there if np.array_equal(one.labels, held.labels)), None)
    if other is None:
        losses = ", ".join(f"{{name: {term['name']}}}" for term in default_losses(run.task, teacher=False))
        raise Skip(
            f"Cannot tell without the same student from labels alone, in a folder next to it (losses=[{losses}])."
        )
    gap, margin = loss_gap(run.task, held.student_logits, other.student_logits, held.labels)
    verdict: Verdict = "problem" if gap > 2 * margin else "warning" if gap > margin else "ok"
    what = "squared error" if run.task == "regression" else "cross-entropy"
    side = "above" if gap > 0 else "below"
    summary = f"The mean {what} of a test $image is {abs(gap):.3g} ± {margin:.2g} {side} that of labels alone."
    remedy = Remedy("Is the teacher better than the student from labels? Else give it less weight.")
    return CheckResult(verdict, summary, {"gap": gap, "margin": margin}, remedy)


@check(
    threshold="Problem: the teacher is no better than a model that ignores the $image (R² of 0; mAP as large as the "
    f"classes are frequent), by {NOTHING:.0%} of the way to a perfect one; warning: its loss on the test $images is "
    "above the student's by more than another draw of $images would change.",
    source="A teacher that knows nothing of the labels teaches nothing of them.",
    problem="The teacher is at chance",
    title="Level of the teacher",
    tasks=_OTHERS,
)
def teacher_at_chance(run: RunRecord) -> CheckResult:
    """Whether the teacher knows more than a model that ignores the image, and than its student."""
    held = _held(run)
    if held.teacher_logits is None or run.teacher_measures is None:
        raise Skip("There is no teacher whose test outputs are known.")
    measure, chance = _primary(run), _chance(run)
    level = float(getattr(run.teacher_measures, measure.name))
    gap, margin = loss_gap(run.task, held.student_logits, held.teacher_logits, held.labels)
    shown = f"The teacher's {measure.title} is {measure.written(level)}; chance is {measure.written(chance)}"
    evidence = {measure.name: level, "chance": chance, "student_loss_above": gap, "margin": margin}
    if is_near_chance(measure, level, chance):
        words = "Check the teacher's weights, its preprocess, and the order and unit of its outputs."
        return CheckResult("problem", f"{shown}.", evidence, Remedy(words))
    if gap < -margin:
        summary = f"{shown}; its loss on the test $images is {-gap:.3g} above the student's."
        return CheckResult("warning", summary, evidence, Remedy("Use a better teacher."))
    return CheckResult("ok", f"{shown}.", evidence)


CHECKS = (teacher_at_chance, student_at_chance, past_its_best, below_labels)
