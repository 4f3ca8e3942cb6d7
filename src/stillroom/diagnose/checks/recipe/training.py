"""Checks of the training options: learning rate and decay, number of steps, regularisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from stillroom.diagnose.check import CheckResult, Limits, Skip, check
from stillroom.diagnose.checks.recipe.context import CheckContext
from stillroom.diagnose.checks.running_statistics import judge_statistics, statistics_check
from stillroom.diagnose.remedies import USUAL_RATE, mean_weight, option_path, usual_decay
from stillroom.losses.registry import loss_class
from stillroom.models.running_statistics import fresh_momentum
from stillroom.schema.diagnosis import Remedy, Verdict
from stillroom.tasks import TASKS
from stillroom.train.optimisation import full_rate_steps, lr_factor

# Peak rates, those of sgd counted for a momentum of .9.
HIGH_RATE = {
    "sgd": Limits(0.5, 1.5, "usual is .1; ten times that is beyond what warm-up saves"),
    "adamw": Limits(0.01, 0.05, "usual is .001; ten times that is beyond what warm-up saves"),
}
LOW_RATE = {
    "sgd": Limits(1e-3, 1e-4, "a thousandth of the usual rate does not move the weights in a run of usual length"),
    "adamw": Limits(1e-5, 1e-6, "a thousandth of the usual rate does not move the weights in a run of usual length"),
}
FORGETTING = Limits(5e-4, 1e-3, "share of a weight that a step forgets at the peak rate: usual is 5e-5 (.1 times 5e-4)")
STEPS = Limits(100, 50, "optimizer steps in all: a student of digits needs some 200")
_WARM_UP = 5
# Below so many steps one pass over the images, or two, is not all that there is to learn from them.
_MANY = 2000
AVERAGE = Limits(0.2, 0.5, "share of the run that a moving average covers; usual is a hundredth")
SMOOTHING = Limits(0.3, 0.6, "label smoothing; usual is .1")
CROP = Limits(0.25, 0.5, "share of the side that crops move by; usual is an eighth")
CUTOUT = Limits(0.5, 0.75, "share of the side that cutout takes; usual is up to a half")
DROPOUT = Limits(0.5, 0.75, "share of the units that are dropped; usual is .1 to .5")
# Share of the peak rate that a schedule leaves on the mean: one_cycle, cosine and the usual drops leave a half.
_DROPPED = 0.1
REACH = Limits(
    0.3,
    0.1,
    "how far all steps together could move the weights if they were clipped and pointed the same way, relative to the "
    "weights' norm; training that learns moves them by more than half",
)


@check(
    threshold=(
        f"Peak rates, those of sgd times .1/(1 − momentum): warning from {HIGH_RATE['sgd'].warning:g} (sgd) and "
        f"{HIGH_RATE['adamw'].warning:g} (adamw), problem from {HIGH_RATE['sgd'].problem:g} and "
        f"{HIGH_RATE['adamw'].problem:g}; warning below {LOW_RATE['sgd'].warning:g} and {LOW_RATE['adamw'].warning:g}, "
        f"problem below {LOW_RATE['sgd'].problem:g} and {LOW_RATE['adamw'].problem:g}: some times, and a hundredth, of "
        f"what nearly all recipes use. Rate times decay: warning from {FORGETTING.warning:g}, problem from "
        f"{FORGETTING.problem:g} a step, where a weight is forgotten within 1,000 steps; usual is 5e-5. Of a schedule "
        f"that leaves less than {_DROPPED:.0%} of the peak on the mean: warning where that comes to fewer than "
        f"{STEPS.warning} steps at the peak, problem to fewer than {STEPS.problem}. Of clipped sgd: warning where all "
        f"steps together cannot move the weights by {REACH.warning:.0%} of their norm, problem {REACH.problem:.0%}; "
        "training that learns moves them by more than half."
    ),
    source="Smith & Topin, arXiv 1708.07120; Loshchilov & Hutter, arXiv 1711.05101.",
    limits=[*HIGH_RATE.values(), *LOW_RATE.values(), FORGETTING, REACH],
    tasks=TASKS,
)
def learning_rate(context: CheckContext) -> CheckResult:
    """Whether rate, decay and schedule are of a usual size."""
    optimizer = context.recipe.training.optimizer
    kind = optimizer.name
    if kind not in USUAL_RATE:
        raise Skip("The optimizer is one of your own, whose usual rate is not known.")
    scale = 0.1 / (1 - optimizer.momentum) if kind == "sgd" else 1.0
    rate = optimizer.lr * scale
    forgets = optimizer.lr * optimizer.weight_decay
    evidence = {"lr": optimizer.lr, "rate": rate, "weight_decay": optimizer.weight_decay, "forgets": forgets}
    usual = USUAL_RATE[kind]
    verdict: Verdict = "ok"
    summary = (
        f"A peak rate of {optimizer.lr:g} and a decay of {optimizer.weight_decay:g} are of a usual size for {kind}."
    )
    remedy = Remedy("Start from a usual rate.", {"training.optimizer.lr": float(f"{usual / scale:.2g}")})
    if rate >= HIGH_RATE[kind].warning:
        verdict = HIGH_RATE[kind].at_least(rate)
        summary = f"A peak rate of {optimizer.lr:g} is {rate / usual:.3g} times what is usual for {kind}."
    elif rate < LOW_RATE[kind].warning:
        verdict = LOW_RATE[kind].below(rate)
        summary = f"A peak rate of {optimizer.lr:g} is 1/{usual / rate:,.0f} of what is usual for {kind}."
    elif forgets >= FORGETTING.warning:
        verdict = FORGETTING.at_least(forgets)
        summary = (
            f"A decay of {optimizer.weight_decay:g} at a rate of {optimizer.lr:g} forgets a weight within "
            f"{1 / forgets:,.0f} steps."
        )
        decay = {"training.optimizer.weight_decay": usual_decay(optimizer.lr)}
        remedy = Remedy("Use a decay that is usual at this rate.", decay)
    if verdict != "problem":
        lost = _early_drop(context, evidence) or _clipping(context, evidence)
        if lost is not None and (verdict == "ok" or lost[0] == "problem"):
            verdict, summary, remedy = lost
    return CheckResult(verdict, summary, evidence, remedy)


def _early_drop(context: CheckContext, evidence: dict[str, float]) -> tuple[Verdict, str, Remedy] | None:
    """Whether the schedule drops the rate before anything is learned."""
    total = context.total_steps
    full = full_rate_steps(context.recipe.training.schedule, total)
    evidence |= {"steps": total, "full_rate_steps": full}
    if full >= _DROPPED * total or full >= STEPS.warning:
        return None
    summary = (
        f"The schedule comes to {full:.3g} steps at the peak rate, of {total:,}: it drops before anything is learned."
    )
    return STEPS.below(full), summary, keep_rate_remedy()


def keep_rate_remedy() -> Remedy:
    """The remedy of a schedule that drops the rate too early."""
    return Remedy("Use a schedule that keeps the rate high for longer.", {"training.schedule": {"name": "one_cycle"}})


def _clipping(context: CheckContext, evidence: dict[str, float]) -> tuple[Verdict, str, Remedy] | None:
    """Whether clipped gradients can move the weights at all."""
    training = context.recipe.training
    optimizer, clip = training.optimizer, training.clip_norm
    if clip is None or optimizer.name != "sgd":
        return None
    try:
        terms = context.gradients.terms
    except Skip:
        return None
    norm = sum(mean_weight(term.config) * terms[term.name] for term in context.losses if term.name in terms)
    if norm <= clip:
        return None
    total = context.total_steps
    weights = [weight.detach().double() for weight in context.student.model.parameters() if weight.requires_grad]
    size = float(sum(weight.square().sum() for weight in weights)) ** 0.5
    reach = (
        optimizer.lr / (1 - optimizer.momentum) * clip * full_rate_steps(training.schedule, total) / max(size, 1e-12)
    )
    evidence |= {"clip_norm": clip, "gradient_norm": norm, "reach": reach}
    if reach >= REACH.warning:
        return None
    summary = (
        f"Gradients of {norm:.2g} are clipped to {clip:g}: all {total:,} steps together cannot move the weights by "
        f"more than {reach:.1%} of their norm."
    )
    return REACH.below(reach), summary, Remedy("Clip only rare gradients.", {"training.clip_norm": None})


@check(
    threshold=(
        f"Warning below {STEPS.warning} steps in all, problem below {STEPS.problem}; of fewer than {_MANY:,} steps, "
        "problem also where no $image is seen twice, warning where none is three times; warning where not every $image "
        f"is seen once, or where the warm-up of one_cycle has fewer than {_WARM_UP} steps: from a 25th of the peak "
        "each then jumps by more than half of it. A student of digits needs some 200 steps, one of CIFAR-10 gains 20 "
        "points after its first epoch."
    ),
    source="A schedule is a function of training progress; with few steps it changes in large jumps.",
    limits=[STEPS],
    tasks=TASKS,
)
def budget(context: CheckContext) -> CheckResult:
    """Whether there are enough steps to learn in."""
    training = context.recipe.training
    each, total = context.steps_per_epoch, context.total_steps
    peak = next((s for s in range(min(total, 200)) if lr_factor(training.schedule, s, total) >= 0.99), None)
    evidence: dict[str, Any] = {
        "steps": total,
        "steps_per_epoch": each,
        "epochs": total / each,
        "steps_before_peak": peak,
    }

    def longer(epochs: int) -> Mapping[str, int]:
        return {"training.steps": epochs * each} if training.steps is not None else {"training.epochs": epochs}

    verdict: Verdict = "ok"
    summary = f"{total:,} steps, {total / each:.3g} epochs of {each:,}."
    remedy = Remedy("Train longer.", dict(longer(max(int(-(-2 * STEPS.warning // each)), 1))))
    if total < STEPS.warning:
        verdict = STEPS.below(total)
        summary = f"{total:,} steps of {context.recipe.data.batch_size:,} $images are too few to learn much."
    elif total < _MANY and total <= 2 * each:
        verdict = "problem" if total <= each else "warning"
        summary = f"{total:,} steps show each $image {'once' if total <= each else 'twice'} at the most."
        remedy = Remedy("Train longer.", dict(longer(10)))
    elif total < each:
        verdict = "warning"
        summary = f"{total:,} steps see {100 * total / each:.0f}% of the training $images, each once at the most."
        remedy = Remedy("Train for an epoch at least.", dict(longer(1)))
    elif training.schedule.name == "one_cycle" and peak is not None and peak < _WARM_UP:
        verdict = "warning"
        summary = f"one_cycle reaches its peak rate in {peak} of {total:,} steps."
        remedy = Remedy("Keep the usual warm-up of 30% of the steps.", {"training.schedule.warmup": 0.3})
    return CheckResult(verdict, summary, evidence, remedy)


@statistics_check
def student_statistics(context: CheckContext) -> CheckResult:
    """Whether the run is long enough for the running statistics of the student's batch norms."""
    training = context.recipe.training
    batches = context.total_steps * training.accumulate
    momentum = fresh_momentum(context.student.model)
    return judge_statistics(momentum, batches, recomputed=training.recompute_batch_norm is not None)


@check(
    threshold=(
        f"Warning, and problem: a moving average over more than {AVERAGE.warning:.0%} of the run, "
        f"{AVERAGE.problem:.0%}; labels smoothed by {SMOOTHING.warning:g} or more, {SMOOTHING.problem:g}; crops moved "
        f"by more than {CROP.warning:.0%} of the side, {CROP.problem:.0%}; cutout of more than {CUTOUT.warning:.0%} of "
        f"it, {CUTOUT.problem:.0%}; dropout of more than {DROPOUT.warning:.0%} of "
        f"the units, {DROPOUT.problem:.0%}. Usual are a hundredth of the run, .1, an eighth, up to a half, .1 to .5."
    ),
    source=(
        "An average over the start includes untrained weights; a label or an image mostly removed teaches nothing."
    ),
    limits=[AVERAGE, SMOOTHING, CROP, CUTOUT, DROPOUT],
    tasks=TASKS,
)
def regularisation(context: CheckContext) -> CheckResult:
    """Whether the regularisers leave the student something to learn."""
    recipe, side = context.recipe, context.run_context.data.train.image_size
    augmentation, total = recipe.data.augmentation, context.total_steps
    # Words, the value, its limits, the field, a usual value.
    rows: list[tuple[str, float, Limits, str, Any]] = []
    if recipe.training.ema is not None:
        steps = 1 / (1 - recipe.training.ema)
        usual = float(f"{1 - 100 / total:.3g}") if total > 200 else None
        words = f"A moving average over {steps:,.0f} steps in a run of {total:,}"
        rows.append((words, steps / total, AVERAGE, "training.ema", usual))
    for position, term in enumerate(recipe.losses):
        if (option := loss_class(term).smoothing_option) is not None:
            key, smoothing = option_path(recipe.losses, position, option), getattr(term, option)
            # The limit itself is too much already.
            rows.append((f"Labels smoothed by {smoothing:g}", smoothing + 1e-9, SMOOTHING, key, 0.1))
    if side is not None:
        words = f"Crops moved by up to {augmentation.pad_crop} of {side} pixels"
        rows.append((words, augmentation.pad_crop / side, CROP, "data.augmentation.pad_crop", max(side // 8, 1)))
        words = f"Cutout of {augmentation.cutout} of {side} pixels"
        rows.append((words, augmentation.cutout / side, CUTOUT, "data.augmentation.cutout", side // 4))
    dropped = [m.p for m in context.student.model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    if dropped:
        # Only where the student has it as an option can a recipe change it.
        key = "student.options.dropout" if "dropout" in recipe.student.options else "dropout"
        rows.append((f"Dropout of {max(dropped):.0%} of the student's units", max(dropped), DROPOUT, key, 0.1))
    heavy = [row for row in rows if row[1] > row[2].warning]
    evidence = {row[3]: row[1] for row in rows}
    if not heavy:
        return CheckResult("ok", "No regulariser is far beyond its usual strength.", evidence)
    worst = [row for row in heavy if row[1] > row[2].problem]
    summary = " ".join(f"{row[0]}." for row in (worst or heavy))
    remedy = Remedy("Set it back to the usual value.", {row[3]: row[4] for row in heavy if "." in row[3]})
    return CheckResult("problem" if worst else "warning", summary, evidence, remedy)
