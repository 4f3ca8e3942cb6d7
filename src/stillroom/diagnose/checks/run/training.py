"""Checks of how a run trained: whether it ended, diverged, was too short, held back or overfitted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from stillroom.diagnose.check import CheckResult, Limits, Skip, check
from stillroom.diagnose.checks.run import quantities
from stillroom.diagnose.checks.run.baseline import against_labels
from stillroom.diagnose.checks.run.quantities import TrainTestLoss, has_collapsed, loss_rise, require_trained
from stillroom.diagnose.checks.run.record import RunRecord
from stillroom.diagnose.checks.running_statistics import judge_statistics, statistics_check
from stillroom.diagnose.remedies import USUAL_RATE, path_in, two_digits, usual_decay
from stillroom.losses.registry import loss_class
from stillroom.schema.diagnosis import Remedy, Verdict
from stillroom.tasks import TASKS
from stillroom.train.folder import is_being_written
from stillroom.train.optimisation import full_rate_steps

# A rise of the loss after which a run that ended early ended because of it, whatever its last line says.
_FATAL_RISE = 30.0
FALLING = Limits(
    warning=quantities.STILL_FALLING,
    problem=0.10,
    why="share of the loss that each doubling of the steps took away; between seeds of one recipe it moves by .05",
)
# Share of its first value that a loss keeps to the end where the rate moves next to nothing.
_CREPT = 0.5
# Training loss over test loss from which on augmentation made the training images another task.
_DISGUISED = 1.5
OVERFITTED = Limits(
    warning=2.0,
    problem=4.0,
    why="loss on test images over the same loss on training images, which are seen augmented: equal would be good",
)
# In nats, or in the term's own unit: a smaller difference does not matter.
_MATTERS = 0.1
# A rise of the test loss over its lowest.
_RISEN = 1.1

# Usual is 5e-5 (a rate of .1, a decay of 5e-4): a weight is then forgotten in 20,000 steps. Here it is in 1,000, and
# under batch norm a step turns the weights by √(2·.001), 2.6 degrees, which is as coarse as a rate that is too high.
_FORGETTING = 1e-3
# At so many times that a weight is forgotten in a hundred steps: a run of any length is then limited by the decay.
_EXTREME = 10
# Peak rates from which on the rate is the cause: those at which the checks of a recipe report a problem.
_TOO_HIGH = {"sgd": 1.5, "adamw": 0.05}
# Usual is .1; at .3 and ten classes no target is above .73.
_SMOOTHING = 0.3
# Usual is an eighth of the side for crops, up to half of it for cutout.
_CROP, _CUTOUT = 1 / 4, 1 / 2
# Usual is .1 to .5 of the units.
_DROPOUT = 0.75
# A moving average remembers 1 / (1 − decay) steps: at a fifth of the run it still holds the untrained student.
_AVERAGE = 1 / 5

# Passes over the images, in fewer steps, after which there is more to learn from them.
_BRIEF, _MANY_STEPS = 2, 2000
# Rates below which a run is short of rate rather than of steps.
_LOW_RATE = {"sgd": 0.01, "adamw": 1e-4}
# Side in pixels from which on crops may be moved.
_SMALL = 16


@check(
    threshold=(
        "A run is finished when summary.json is there. Problem: it is not, and no process holds the folder; warning: a "
        "process does, or that cannot be known."
    ),
    problem="The run did not end",
    title="End of the run",
    tasks=TASKS,
)
def unfinished(run: RunRecord) -> CheckResult:
    """Whether the run was trained to its end."""
    of = f" of {run.planned:,}" if run.planned else ""
    evidence = {"steps": run.steps, "planned": run.planned, "resumed": run.events.count("resume")}
    if run.finished:
        return CheckResult("ok", f"The run was trained to its end: {run.steps:,}{of} steps.", evidence)
    summary = f"The run did not end: {run.steps:,}{of} steps were logged, and only these are judged."
    if not run.train and not run.test:
        summary = "The run logged no step: it has just started, or its loss was not finite from the first steps on."
    if is_being_written(run.path) is False:
        remedy = Remedy("Give the same command again: it goes on with the run. If it stops again, its error says why.")
        return CheckResult("problem", summary, evidence, remedy)
    return CheckResult("warning", summary, evidence, Remedy("Wait until the run has ended."))


@statistics_check
def student_statistics(run: RunRecord) -> CheckResult:
    """Whether the run was long enough for the running statistics of the student's batch norms."""
    if not run.finished:
        raise Skip("The run did not end.")
    if run.batch_norm is None:
        return CheckResult("ok", "Enough batches went into the running statistics of batch norms, where there are any.")
    return judge_statistics(run.batch_norm.momentum, run.batch_norm.batches, recomputed=False)


@check(
    threshold=(
        f"Problem: no better than chance at the end, or a rise of the loss by {quantities.SPIKE:g} times (or to "
        f"{quantities.ABOVE_FIRST:g} times its first) from which it did not come back, or by {_FATAL_RISE:g} times in "
        "a run that ended early; warning: one from which it did. Losses of runs that learn move by less than half from "
        "line to line."
    ),
    source="A loss at log K is that of a model that ignores the image.",
    problem="The loss blew up",
    title="Divergence",
)
def diverged(run: RunRecord) -> CheckResult:
    """Whether the loss blew up, or the student never left chance."""
    losses = run.losses
    if not losses:
        raise Skip("The run logged no training loss.")
    rise, spiked, recovered = loss_rise(run)
    collapsed, chance = has_collapsed(run), quantities.chance_accuracy(run)
    evidence: dict[str, Any] = {
        "first_loss": losses[0],
        "lowest_loss": min(losses),
        "highest_loss": max(losses),
        "last_loss": losses[-1],
        "largest_rise": rise,
        "top1": quantities.last(run.test, "top1"),
        "chance_top1": chance,
        "nll": quantities.last(run.test, "nll"),
        "chance_nll": quantities.chance_nll(run),
        "peak_lr": run.peak_rate,
        "weights": dict(run.weights),
    }
    plots = quantities.loss_plot(run, "Training loss", quantities.ABOVE_FIRST * abs(losses[0]))
    averaged = _averaged(run)
    held = ("training.optimizer.weight_decay", "student.options.dropout")
    held_back = next((one for one in heavy_regularisers(run) if one.key in held), None)
    cause = averaged or (held_back if not spiked else None)
    if collapsed and cause is not None:
        summary = (
            f"The student is no better than chance ({evidence['top1']:.1f}%), yet its training loss "
            f"{'fell' if averaged else 'never rose'}: {cause.words} holds it there, see over_regularising."
        )
        return CheckResult("warning", summary, evidence, None, plots)
    if collapsed and not spiked and student_statistics.run(run).verdict == "problem":
        summary = (
            f"The student is no better than chance ({evidence['top1']:.1f}%), and its training loss did not rise: what "
            "was evaluated is not what was trained, see student_statistics."
        )
        return CheckResult("warning", summary, evidence, None, plots)
    verdict: Verdict = "ok"
    summary = f"The loss went from {_number(losses[0])} to {_number(losses[-1])} without blowing up."
    if collapsed:
        verdict = "problem"
        times = f"{rise:,.0f}" if rise < 10_000 else "more than 10,000"
        how = f"the loss rose {times} times over its lowest" if spiked else "the loss never came down"
        summary = f"The student is no better than chance: {evidence['top1']:.1f}% against {chance:.1f}%; {how}."
    elif spiked and (not recovered or (not run.finished and rise >= _FATAL_RISE)):
        verdict = "problem"
        summary = (
            f"The loss blew up: {_number(max(losses))} at its highest, {_number(losses[-1])} at the end, after "
            f"{_number(min(losses))} at its lowest."
        )
    elif spiked:
        verdict = "warning"
        summary = f"The loss rose {max(rise, max(losses) / losses[0]):.1f} times and recovered: it lost steps by it."
    return CheckResult(verdict, summary, evidence, _smaller_steps(run), plots)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@check(
    threshold=(
        "Strong: learning rate × weight decay of .001 (usual .00005), smoothing of .3 (usual .1), a moving average "
        "over a fifth of the run, crops beyond a quarter or cutout beyond half of the side, dropout beyond "
        f"{_DROPOUT:.0%} of the units. Problem: one of them, a "
        f"student below its teacher by more than chance, and a training loss that is not {OVERFITTED.warning:g} times "
        f"below the test loss; warning where the training loss still fell, unless it is {_DISGUISED:g} times the test "
        "loss under crops or cutout, or the decay is .01, the smoothing .6. Of a moving average the training loss "
        "shows nothing."
    ),
    source="A student held back by regularisation is as bad on training as on test images; one that overfits is not.",
    problem="Held back by regularisation",
    title="Regularisation",
)
def over_regularising(run: RunRecord) -> CheckResult:
    """Whether a regulariser holds the student back."""
    if not run.finished:
        raise Skip("The run did not end.")
    found = heavy_regularisers(run)
    collapsed = has_collapsed(run)
    if collapsed and not _averaged(run) and (loss_rise(run)[1] or not found):
        raise Skip("The student learned nothing; see diverged.")
    loss, gap, slope = quantities.train_test_loss(run), run.gap, quantities.loss_slope(run)
    evidence = {
        "heavy": [one.words for one in found],
        "train_loss": loss.train if loss is not None else None,
        "test_loss": loss.test if loss is not None else None,
        "teacher_nll": run.teacher.nll if run.teacher is not None else None,
        "gap": gap.points if gap is not None else None,
        "gap_margin": gap.margin if gap is not None else None,
        "fall_per_doubling": slope.share if slope is not None else None,
    }
    plots = quantities.loss_plot(run, "Training loss")

    def result(verdict: Verdict, summary: str, remedy: Remedy | None = None) -> CheckResult:
        return CheckResult(verdict, summary, evidence, remedy, plots)

    if not found:
        return result("ok", "No regulariser is far beyond its usual strength.")
    what = " and ".join(one.words for one in found)
    usual = " and ".join(f"{one.key} to {'none' if one.usual is None else one.usual}" for one in found)
    remedy = Remedy(f"Set back to the usual values: {usual}.", {one.key: one.usual for one in found})
    if gap is not None and not gap.is_significant:
        return result("ok", f"Strong ({what}), but the student is as good as its teacher.")
    # What an average remembers shows on the test images: the training loss is that of the weights themselves.
    averaged = any(one.key == "training.ema" for one in found)
    if has_learned(run, loss) and not collapsed and not averaged:
        return result("ok", f"Strong ({what}), but the student still learned the training $images.")
    if collapsed:
        why = "" if averaged else ": the training loss is that of a guess"
        return result("problem", f"Held at chance by {what}{why}.", remedy)
    level = ""
    if loss is not None and averaged:
        level = f": {loss.name} is {loss.train:.3g} on training $images and {loss.test:.3g} on test $images"
    elif loss is not None:
        level = (
            f": {loss.name} is no better on training $images ({loss.train:.3g}) than on test $images ({loss.test:.3g})"
        )
    still = slope is not None and slope.is_significant and slope.share >= FALLING.problem
    still = still and not (averaged or any(one.is_extreme for one in found) or _is_disguised(run, loss))
    verdict: Verdict = "warning" if still or gap is None else "problem"
    return result(verdict, f"Held back by {what}{level}{_below_teacher(run)}.", remedy)


@check(
    threshold=(
        f"Problem: each doubling of the steps took {FALLING.problem:.0%} or more off the training loss at a high "
        f"learning rate, the test loss is within {OVERFITTED.warning:g} times the training loss, and the student is "
        f"below its teacher by more than twice what chance explains; warning from {FALLING.warning:.0%}, or with a "
        f"smaller gap. Between seeds of one recipe the share moves by about 5%. Problem, too: at a rate far below the "
        f"usual the loss kept {_CREPT:.0%} of what it was at first; a schedule that comes to fewer than "
        f"{quantities.FEW_STEPS} steps at its peak rate; each $image seen once or twice, in fewer than {_MANY_STEPS:,} "
        "steps. That the loss still fell is a problem of a distilled run only where the student is also below the same "
        "student from labels alone, by more than noise: of few $images the loss falls to the end of a good run, too. "
        "Without such a run next to it, this cannot be judged. A warning at most where over_regularising "
        "reports the problem."
    ),
    source="A falling learning rate brings the loss down in any run; its slope before that shows what was left.",
    limits=[FALLING],
    problem="Training too short",
    title="Length of the training",
)
def under_training(run: RunRecord) -> CheckResult:
    """Whether the run ended while there was still much to learn."""
    require_trained(run)
    slope, loss, gap = quantities.loss_slope(run), quantities.train_test_loss(run), run.gap
    dropped_early = quantities.dropped_early(run)
    if slope is None and run.epochs > 2 and not dropped_early:
        raise Skip("Too few lines of training were logged; set training.log_every lower.")
    moved = sorted(run.weight_distance[-1].distance.values()) if run.weight_distance else []
    _, top1 = quantities.series(run.test, "top1")
    evidence: dict[str, Any] = {
        "fall_per_doubling": slope.share if slope is not None else None,
        "fall_error": slope.error if slope is not None else None,
        "epochs": run.epochs,
        "peak_lr": run.peak_rate,
        "last_lr": quantities.last(run.train, "lr"),
        "train_loss": loss.train if loss is not None else None,
        "test_loss": loss.test if loss is not None else None,
        "gap": gap.points if gap is not None else None,
        "gap_margin": gap.margin if gap is not None else None,
        # What top-1 gained over the last third of the evaluations, in points.
        "test_trend": top1[-1] - top1[-max(len(top1) // 3, 1) - 1] if len(top1) >= 3 else None,
        "median_move": moved[len(moved) // 2] if moved else None,
    }
    plots = quantities.loss_plot(run, "Training loss")

    def result(verdict: Verdict, summary: str, remedy: Remedy | None = None) -> CheckResult:
        return CheckResult(verdict, summary, evidence, remedy, plots)

    if gap is not None and not gap.is_significant:
        side = "below" if gap.points > 0 else "above"
        level = "as good as its teacher" if abs(gap.points) <= gap.margin else "better than its teacher"
        return result("ok", f"The student is {level} ({gap} {side}): more steps would gain little.")
    if loss is not None and has_learned(run, loss):
        level = f"{loss.name} {loss.train:.3g}, on test $images {loss.test:.3g}"
        return result("ok", f"The student learned the training $images ({level}): it had enough steps.")
    below = _below_teacher(run)
    if dropped_early and run.planned and run.planned >= 2 * quantities.FEW_STEPS:
        full = full_rate_steps(run.recipe.training.schedule, run.planned)
        summary = f"Its schedule comes to {full:.3g} steps at the peak rate, of {run.planned:,}{below}."
        remedy = Remedy(
            "Use a schedule that keeps the rate high for longer.", {"training.schedule": {"name": "one_cycle"}}
        )
        return result("problem", summary, remedy)
    began, ended, peak = next(iter(run.losses), None), next(reversed(run.losses), None), run.peak_rate or 0.0
    if began and ended and ended >= _CREPT * began and peak < _low_rate(run) and gap is not None and gap.is_large:
        summary = f"At a peak rate of {peak:g} the training loss only went from {began:.3g} to {ended:.3g}{below}."
        return result("problem", summary, _train_longer(run))
    share = slope.share if slope is not None else 1.0
    epochs = f"{run.epochs:g} epoch{'' if run.epochs == 1 else 's'}"
    fall = f"{epochs}: each doubling of the steps still took {slope or '?'} off the training loss"
    # Of so few passes, in so few steps, the run alone shows that there was more to learn; so does a rate that is far
    # below the usual. A loss that still falls does so in any run of few images.
    is_brief = run.epochs <= _BRIEF and run.steps < _MANY_STEPS
    is_plain = is_brief or peak < _low_rate(run)
    if slope is None or is_brief or (share >= FALLING.problem and slope.is_significant):
        if is_brief:
            fall = f"{epochs}: the student saw each $image {'once' if run.epochs <= 1 else 'twice'}"
        elif slope is None:
            fall = f"{epochs} and hardly a log line"
        # A small gap may have another cause, or be chance. A heavy regulariser must be mended first.
        held_back = any(one.is_extreme for one in heavy_regularisers(run)) or _is_disguised(run, loss)
        is_sure = (gap is None or gap.is_large) and not held_back
        summary = f"{'Too' if is_sure else 'Perhaps too'} short, {fall}{below}."
        found = result("problem" if is_sure else "warning", summary, _train_longer(run))
        return found if is_plain else against_labels(run, found, "warning")
    if share >= FALLING.warning and slope.is_significant:
        found = result("warning", f"Perhaps too short, {fall}{below}.", _train_longer(run))
        return against_labels(run, found, "warning")
    if share >= FALLING.warning:
        return result("ok", f"The training loss fell no more than its noise: {slope} a doubling of the steps.")
    return result("ok", f"The training loss had levelled off: {slope} a doubling of the steps.")


@check(
    threshold=(
        f"Problem: the loss on training $images is {OVERFITTED.problem:g} times or more below that on test $images and "
        f"{_MATTERS:g} apart, and the student is below its teacher by more than twice what chance explains, or has no "
        "teacher and lacks a usual regulariser; or the "
        f"test loss rose {_RISEN:g} times over its lowest. Warning from {OVERFITTED.warning:g} times. Training $images "
        "are seen augmented, so equal losses would already be good. Of a distilled run only where accuracy came down "
        "from its best during the run, or the student is below the same student from labels alone, by more than noise; "
        "without such a run next to it, this cannot be judged."
    ),
    source="More data or regularisation helps only if the test loss is well above the training loss.",
    limits=[OVERFITTED],
    problem="Overfitted",
    title="Overfitting",
)
def over_fitting(run: RunRecord) -> CheckResult:
    """Whether the student overfitted its training images."""
    require_trained(run)
    loss, gap = quantities.train_test_loss(run), run.gap
    if loss is None:
        raise Skip("No loss term can be computed on the test $images.")
    _, nll = quantities.series(run.test, "nll")
    # A loss that came down at the very end has not risen.
    early = min(nll[: max(2 * len(nll) // 3, 1)]) if len(nll) >= 3 else None
    rise = nll[-1] / early if early else 1.0
    has_risen = early is not None and rise >= _RISEN and nll[-1] - early >= _MATTERS
    evidence = {
        "term": loss.name,
        "train_loss": loss.train,
        "test_loss": loss.test,
        "ratio": loss.ratio,
        "lowest_nll": min(nll) if nll else None,
        "last_nll": nll[-1] if nll else None,
        "gap": gap.points if gap is not None else None,
        "gap_margin": gap.margin if gap is not None else None,
    }
    mark = OVERFITTED.problem * loss.train if loss.is_cross_entropy else None
    plots = quantities.evaluation_plot(run, "nll", "Loss on the test $images", "test NLL, nats", mark)
    level = f"{loss.name} {loss.train:.3g} on training $images, {loss.test:.3g} on test $images"
    remedy = _more_regularisation(run)
    verdict, summary = "ok", f"Not overfitted: {level}."
    if loss.test - loss.train >= _MATTERS and has_learned(run, loss):
        verdict, summary = "warning", f"Partly overfitted: {level}."
        if has_risen:
            verdict, summary = "problem", f"Overfitted: the test loss rose {rise:.1f} times, {level}."
        # Without a teacher nothing shows that more could be had of these images; what the recipe lacks would show it.
        elif loss.ratio >= OVERFITTED.problem and (gap.is_large if gap is not None else bool(remedy.overrides)):
            verdict, summary = "problem", f"Overfitted: {level}{_below_teacher(run)}."
    result = CheckResult(verdict, summary, evidence, remedy, plots)  # type: ignore[arg-type]
    return result if _past_its_best(run) is not None else against_labels(run, result)


def _past_its_best(run: RunRecord) -> float | None:
    """The epoch at which the student was better than at the end, beyond twice the noise of the test images."""
    epochs, top1 = quantities.series(run.test, "top1")
    if run.student is None or len(top1) < 3:
        return None
    best = max(range(len(top1)), key=lambda place: top1[place])
    noise = 100 * quantities.margin(top1[best] / 100, run.student.count)
    return epochs[best] if top1[best] - top1[-1] > 2 * noise else None


def has_learned(run: RunRecord, loss: TrainTestLoss | None) -> bool:
    """Whether the training images are learned: their loss is far below that of test images, and below what it was.

    After few steps batch norm's running means do not fit the weights yet: test images then look worse than they are.
    """
    if loss is None or loss.ratio < OVERFITTED.warning:
        return False
    first = next((float(row[f"loss/{loss.name}"]) for row in run.train if f"loss/{loss.name}" in row), 0.0)
    return loss.train <= first / 2


def _below_teacher(run: RunRecord) -> str:
    return f", and the student is {run.gap} below its teacher" if run.gap is not None else ""


@dataclass(frozen=True)
class HeavyRegulariser:
    """A regulariser far beyond what is usual: in words, its field, a usual value; whether it hides all other causes."""

    words: str
    key: str
    usual: Any
    is_extreme: bool = False


def heavy_regularisers(run: RunRecord) -> list[HeavyRegulariser]:
    """The regularisers of a run's recipe that are far beyond what is usual."""
    recipe = run.recipe
    training, augmentation, optimizer = recipe.training, recipe.data.augmentation, recipe.training.optimizer
    found = []
    scale = 0.1 / (1 - optimizer.momentum) if optimizer.name == "sgd" else 1.0
    # A rate that is far too high makes any decay heavy, and is what must be changed.
    forgets = optimizer.lr * optimizer.weight_decay
    if forgets >= _FORGETTING and optimizer.lr * scale < _TOO_HIGH.get(optimizer.name, math.inf):
        words = f"weight decay {optimizer.weight_decay:g} at a rate of {optimizer.lr:g}"
        key, is_extreme = "training.optimizer.weight_decay", forgets >= _EXTREME * _FORGETTING
        found.append(HeavyRegulariser(words, key, usual_decay(optimizer.lr), is_extreme))
    for term in recipe.losses:
        option = loss_class(term).smoothing_option
        if option is not None and (smoothing := getattr(term, option)) >= _SMOOTHING:
            words = f"labels smoothed by {smoothing:g}"
            key, is_extreme = path_in(recipe, term.key, option), smoothing >= 2 * _SMOOTHING
            found.append(HeavyRegulariser(words, key, 0.1, is_extreme))
    dropout = recipe.student.options.get("dropout")
    if isinstance(dropout, int | float) and dropout > _DROPOUT:
        words = f"dropout of {dropout:.0%} of the units"
        found.append(HeavyRegulariser(words, "student.options.dropout", 0.1, is_extreme=True))
    if training.ema is not None and run.planned and 1 / (1 - training.ema) > _AVERAGE * run.planned:
        words = f"a moving average over {1 / (1 - training.ema):,.0f} steps in a run of {run.planned:,}"
        is_extreme = 1 / (1 - training.ema) / run.planned > 1 / 2
        found.append(HeavyRegulariser(words, "training.ema", None, is_extreme))
    if run.side:
        for key, value, limit, usual, what in (
            ("pad_crop", augmentation.pad_crop, _CROP, run.side // 8, "crops moved by up to"),
            ("cutout", augmentation.cutout, _CUTOUT, run.side // 4, "cutout of"),
        ):
            if value > limit * run.side:
                words = f"{what} {value} of {run.side} pixels"
                found.append(HeavyRegulariser(words, f"data.augmentation.{key}", max(usual, 1)))
    return found


def _averaged(run: RunRecord) -> HeavyRegulariser | None:
    """The moving average that the student is, where it remembers too much and the weights themselves learned."""
    learned = bool(run.losses) and run.losses[-1] <= _CREPT * run.losses[0]
    return next((one for one in heavy_regularisers(run) if one.key == "training.ema"), None) if learned else None


def _is_disguised(run: RunRecord, loss: TrainTestLoss | None) -> bool:
    """Whether heavy crops or cutout keep the training images from being learned, while test images are."""
    augmented = any(one.key.startswith("data.augmentation") for one in heavy_regularisers(run))
    return augmented and loss is not None and loss.train >= _DISGUISED * loss.test


def _smaller_steps(run: RunRecord) -> Remedy:
    """Smaller weights where the terms' sum makes the steps large, else a smaller rate; and a clipped gradient."""
    overrides: dict[str, Any] = {}
    optimizer = run.recipe.training.optimizer
    large = [name for name, weight in run.weights.items() if weight > 3]
    words = "The weights of the loss multiply every step: bring them near 1, and clip the gradient."
    for name in large:
        overrides[path_in(run.recipe, name, "weight")] = 1.0
    if not large:
        rate = two_digits(min(optimizer.lr / 10, USUAL_RATE.get(optimizer.name, math.inf)))
        words = f"Lower the learning rate from {optimizer.lr:g} to {rate:g}, and clip the gradient."
        overrides["training.optimizer.lr"] = rate
    if run.recipe.training.clip_norm is None:
        overrides["training.clip_norm"] = 1.0
    return Remedy(words, overrides)


def _low_rate(run: RunRecord) -> float:
    """The peak rate below which a run is short of rate, at the recipe's momentum."""
    optimizer = run.recipe.training.optimizer
    scale = (1 - optimizer.momentum) / 0.1 if optimizer.name == "sgd" else 1.0
    # Of an optimizer of the user's own no usual rate is known.
    return _LOW_RATE.get(optimizer.name, 0.0) * scale


def _train_longer(run: RunRecord) -> Remedy:
    """A higher rate where that is what is missing, else more steps."""
    training = run.recipe.training
    optimizer = training.optimizer
    if optimizer.lr < _low_rate(run):
        rate = two_digits(min(optimizer.lr * 10, USUAL_RATE[optimizer.name]))
        words = f"Raise the learning rate from {optimizer.lr:g} to {rate:g}: at such a low rate more steps help little."
        return Remedy(words, {"training.optimizer.lr": rate})
    if training.steps is not None:
        steps = max(2 * training.steps, 10 * (run.steps_per_epoch or 0))
        return Remedy(f"Train for longer: {steps:,} steps, not {training.steps:,}.", {"training.steps": steps})
    epochs = max(2 * round(run.epochs), 10)
    return Remedy(f"Train for longer: {epochs} epochs, not {round(run.epochs)}.", {"training.epochs": epochs})


def _more_regularisation(run: RunRecord) -> Remedy:
    """The first of what the recipe lacks: a larger weight for the teacher, crops, weight decay.

    To stop earlier is a remedy only where the run was better earlier: a student of few images is worse for it.
    """
    recipe = run.recipe
    augmentation, optimizer = recipe.data.augmentation, recipe.training.optimizer
    labels, kl = run.part("labels"), run.part("teacher")
    is_constant = not any(term.has_schedule for term in recipe.losses)
    if labels and kl and is_constant and run.weights[kl] < run.weights[labels]:
        overrides = {path_in(recipe, kl, "weight"): 0.9, path_in(recipe, labels, "weight"): 0.1}
        return Remedy("Weight the teacher more: its soft targets are harder to memorise.", overrides)
    # Of a smaller image even one pixel is much.
    if run.side and run.side >= _SMALL and not augmentation.pad_crop:
        pixels = run.side // 8
        words = f"Use crops moved by up to {pixels} of {run.side} pixels; mirror images too if that keeps their class."
        return Remedy(words, {"data.augmentation.pad_crop": pixels})
    usual = usual_decay(optimizer.lr)
    if optimizer.weight_decay < usual / 2:
        words = f"Raise the weight decay from {optimizer.weight_decay:g} to {usual:g}."
        return Remedy(words, {"training.optimizer.weight_decay": usual})
    best = _past_its_best(run)
    if best is None:
        return Remedy(
            "Use more $images, or a larger weight for the teacher; that stopping earlier helps does not show here."
        )
    epochs = max(round(best), 1)
    if recipe.training.steps is None:
        words = f"Stop earlier: the student was best after {epochs} epochs. More data would help more."
        return Remedy(words, {"training.epochs": epochs})
    steps = max(round(best * (run.steps_per_epoch or 1)), 1)
    words = f"Stop earlier: the student was best after {steps:,} steps. More data would help more."
    return Remedy(words, {"training.steps": steps})
