"""Whether rate, decay and length are of the size that trains anything: arithmetic, before a step is made."""

from __future__ import annotations

from typing import Any

from stillroom.diagnose.checks.recipe.case import Case, mean_weight
from stillroom.diagnose.checks.recipe.check import Check
from stillroom.diagnose.checks.recipe.parts import Skip
from stillroom.diagnose.finding import Finding, Remedy, Verdict
from stillroom.losses.registry import loss_class
from stillroom.train.optimisation import full_rate_steps, lr_factor

# Peak rates, those of sgd counted for a momentum of .9: usual is .1 and .001. Ten times that is beyond what warm-up
# saves, a thousandth of it does not move the weights in a run of usual length.
_HIGH: dict[str, tuple[float, float]] = {"sgd": (0.5, 1.5), "adamw": (0.01, 0.05)}
_LOW: dict[str, tuple[float, float]] = {"sgd": (1e-3, 1e-4), "adamw": (1e-5, 1e-6)}
_USUAL = {"sgd": 0.1, "adamw": 1e-3}
# What a step forgets of a weight at the peak rate: usual is 5e-5 (.1 times 5e-4). A run's own diagnosis turns at the
# same.
_FORGETS, _FORGETS_ALL = 5e-4, 1e-3
_USUAL_DECAY = 5e-5
# Steps: of all, and of the warm-up.
_FEW, _TOO_FEW = 100, 50
_WARM_UP = 5
# Below so many steps one pass over the images is not all that there is to learn from them, nor are two.
_MANY = 2000
# What is far beyond usual, and what leaves little to learn: shares of the run that a moving average remembers, of the
# label that is smoothed away, of the side that crops and cutout take. A run's own diagnosis turns at the first of each.
_AVERAGE, _SMOOTHING, _CROP, _CUTOUT = (0.2, 0.5), (0.3, 0.6), (0.25, 0.5), (0.5, 0.75)


# Share of the peak rate that a schedule leaves on the mean: one_cycle, cosine and the usual drops leave a half.
_DROPPED = 0.1
# How far all steps together could move the weights if they were clipped and pointed the same way, of their size.
_REACH = (0.3, 0.1)


class LearningRate(Check):
    """Whether the rate and the decay are of a usual size."""

    name = "learning_rate"
    threshold = (
        f"Peak rates, those of sgd times .1/(1 − momentum): suspect from {_HIGH['sgd'][0]:g} (sgd) and "
        f"{_HIGH['adamw'][0]:g} (adamw), sick from {_HIGH['sgd'][1]:g} and {_HIGH['adamw'][1]:g}; suspect below "
        f"{_LOW['sgd'][0]:g} and {_LOW['adamw'][0]:g}, sick below {_LOW['sgd'][1]:g} and {_LOW['adamw'][1]:g}: some "
        f"times, and a hundredth, of what nearly all recipes take. Rate times decay: suspect from {_FORGETS:g}, sick "
        f"from {_FORGETS_ALL:g} a step, where a weight is forgotten within 1,000 steps; usual is 5e-5. Of a schedule "
        f"that leaves less than {_DROPPED:.0%} of the peak on the mean: suspect where that comes to fewer than {_FEW} "
        f"steps at the peak, sick to fewer than {_TOO_FEW}. Of clipped sgd: suspect where all steps together cannot "
        f"move the weights by {_REACH[0]:.0%} of their size, sick {_REACH[1]:.0%}; what learns moves them by more than "
        "half."
    )
    source = "Smith & Topin, arXiv 1708.07120; Loshchilov & Hutter, arXiv 1711.05101."

    def examine(self, case: Case) -> Finding:
        """Compare with what is usual."""
        optimizer = case.recipe.training.optimizer
        kind = optimizer.name
        scale = 0.1 / (1 - optimizer.momentum) if kind == "sgd" else 1.0
        rate = optimizer.lr * scale
        forgets = optimizer.lr * optimizer.weight_decay
        evidence = {"lr": optimizer.lr, "rate": rate, "weight_decay": optimizer.weight_decay, "forgets": forgets}
        usual = float(f"{_USUAL[kind] / scale:.2g}")
        high, low = _HIGH[kind], _LOW[kind]
        verdict: Verdict = "ok"
        told = (
            f"A peak rate of {optimizer.lr:g} and a decay of {optimizer.weight_decay:g} are of a usual size for {kind}."
        )
        remedy = Remedy("Begin from a usual rate.", {"training.optimizer.lr": usual})
        if rate >= high[0]:
            verdict = "problem" if rate >= high[1] else "warning"
            told = f"A peak rate of {optimizer.lr:g} is {rate / _USUAL[kind]:.3g} times what is usual for {kind}."
        elif rate < low[0]:
            verdict = "problem" if rate < low[1] else "warning"
            told = f"A peak rate of {optimizer.lr:g} is a {_USUAL[kind] / rate:,.0f}th of what is usual for {kind}."
        elif forgets >= _FORGETS:
            verdict = "problem" if forgets >= _FORGETS_ALL else "warning"
            told = (
                f"A decay of {optimizer.weight_decay:g} at a rate of {optimizer.lr:g} forgets a weight within "
                f"{1 / forgets:,.0f} steps."
            )
            decay = float(f"{_USUAL_DECAY / optimizer.lr:.1g}")
            remedy = Remedy("Decay as is usual at this rate.", {"training.optimizer.weight_decay": decay})
        if verdict != "problem":
            dropped = _dropped(case, evidence) or _clipped(case, evidence)
            if dropped is not None and (verdict == "ok" or dropped[0] == "problem"):
                verdict, told, remedy = dropped
        return self.found(verdict, told, evidence, remedy)


def _dropped(case: Case, evidence: dict[str, float]) -> tuple[Verdict, str, Remedy] | None:
    """Whether the schedule gives the rate away before anything is learned."""
    training = case.recipe.training
    total = training.total_steps(case.batches.steps_per_epoch)
    full = full_rate_steps(training.schedule, total)
    evidence |= {"steps": total, "full_rate_steps": full}
    if full >= _DROPPED * total or full >= _FEW:
        return None
    told = (
        f"The schedule comes to {full:.3g} steps at the peak rate, of {total:,}: it drops before anything is learned."
    )
    remedy = Remedy("Take a schedule that keeps the rate up.", {"training.schedule": {"name": "one_cycle"}})
    return "problem" if full < _TOO_FEW else "warning", told, remedy


def _clipped(case: Case, evidence: dict[str, float]) -> tuple[Verdict, str, Remedy] | None:
    """Whether clipped gradients can move the weights at all."""
    training = case.recipe.training
    optimizer, clip = training.optimizer, training.clip_norm
    if clip is None or optimizer.name != "sgd":
        return None
    try:
        terms = case.gradients.terms
    except Skip:
        return None
    norm = sum(mean_weight(term.config) * terms[term.name] for term in case.losses if term.name in terms)
    if norm <= clip:
        return None
    total = training.total_steps(case.batches.steps_per_epoch)
    weights = [weight.detach().double() for weight in case.student.model.parameters() if weight.requires_grad]
    size = float(sum(weight.square().sum() for weight in weights)) ** 0.5
    reach = (
        optimizer.lr / (1 - optimizer.momentum) * clip * full_rate_steps(training.schedule, total) / max(size, 1e-12)
    )
    evidence |= {"clip_norm": clip, "gradient_norm": norm, "reach": reach}
    if reach >= _REACH[0]:
        return None
    told = (
        f"Gradients of {norm:.2g} are clipped to {clip:g}: all {total:,} steps together cannot move the weights by "
        f"more than {reach:.1%} of their size."
    )
    return (
        "problem" if reach < _REACH[1] else "warning",
        told,
        Remedy("Clip what is rare.", {"training.clip_norm": None}),
    )


class Budget(Check):
    """Whether there are steps enough to learn in."""

    name = "budget"
    threshold = (
        f"Suspect below {_FEW} steps in all, sick below {_TOO_FEW}; of fewer than {_MANY:,} steps, sick also where no "
        "image is seen twice, suspect where none is three times; suspect where not every image is seen once, or where "
        f"the warm-up of one_cycle has fewer than {_WARM_UP} steps: from a 25th of the peak each then jumps by more "
        "than half of it. A student of digits needs some 200 steps, one of CIFAR-10 gains 20 points after its first "
        "epoch."
    )
    source = "A schedule is a function of the share of the run that is done; of few steps it is a staircase."

    def examine(self, case: Case) -> Finding:
        """Count steps."""
        training = case.recipe.training
        each = case.batches.steps_per_epoch
        total = training.total_steps(each)
        peak = next((s for s in range(min(total, 200)) if lr_factor(training.schedule, s, total) >= 0.99), None)
        evidence: dict[str, Any] = {
            "steps": total,
            "steps_per_epoch": each,
            "epochs": total / each,
            "steps_before_peak": peak,
        }
        verdict: Verdict = "ok"
        told = f"{total:,} steps, {total / each:.3g} epochs of {each:,}."
        batch = case.recipe.data.batch_size
        wanted = -(-2 * _FEW // each)
        remedy = Remedy("Train longer.", _longer(case, max(wanted, 1)))
        if total < _FEW:
            verdict = "problem" if total < _TOO_FEW else "warning"
            told = f"{total:,} steps of {batch:,} images are too few to learn much in."
        elif total < _MANY and total <= 2 * each:
            verdict = "problem" if total <= each else "warning"
            told = f"{total:,} steps show each image {'once' if total <= each else 'twice'} at the most."
            remedy = Remedy("Train longer.", _longer(case, 10))
        elif total < each:
            verdict = "warning"
            told = f"{total:,} steps see {100 * total / each:.0f}% of the training images, each once at the most."
            remedy = Remedy("Train for an epoch at least.", _longer(case, 1))
        elif training.schedule.name == "one_cycle" and peak is not None and peak < _WARM_UP:
            verdict = "warning"
            told = f"one_cycle comes to its peak rate in {peak} of {total:,} steps."
            remedy = Remedy("Leave the warm-up its usual three tenths.", {"training.schedule.warmup": 0.3})
        return self.found(verdict, told, evidence, remedy)


class Regularisation(Check):
    """Whether what holds a student back leaves it something to learn."""

    name = "regularisation"
    threshold = (
        f"Suspect, and sick: a moving average over more than {_AVERAGE[0]:.0%} of the run, {_AVERAGE[1]:.0%}; labels "
        f"smoothed by {_SMOOTHING[0]:g} or more, {_SMOOTHING[1]:g}; crops moved by more than {_CROP[0]:.0%} of the "
        f"side, {_CROP[1]:.0%}; cutout of more than {_CUTOUT[0]:.0%} of it, {_CUTOUT[1]:.0%}. Usual are a hundredth of "
        "the run, .1, an eighth, up to a half."
    )
    source = (
        "An average that remembers the start holds untrained weights; a label or an image that is gone teaches none."
    )

    def examine(self, case: Case) -> Finding:
        """Compare with what is usual."""
        training, side = case.recipe.training, case.setting.data.train.image_size
        augmentation = case.recipe.data.augmentation
        total = training.total_steps(case.batches.steps_per_epoch)
        rows: list[tuple[str, float, tuple[float, float], str, Any]] = []
        if training.ema is not None:
            steps = 1 / (1 - training.ema)
            usual = float(f"{1 - 100 / total:.3g}") if total > 200 else None
            told = f"A moving average over {steps:,.0f} steps in a run of {total:,}"
            rows.append((told, steps / total, _AVERAGE, "training.ema", usual))
        for term in case.recipe.losses:
            if (option := loss_class(term).smoothing_option) is not None:
                smoothing = getattr(term, option)
                # At the bound itself it is heavy already.
                told = f"Labels smoothed by {smoothing:g}"
                rows.append((told, smoothing + 1e-9, _SMOOTHING, f"losses.{term.name}.{option}", 0.1))
        if side is not None:
            told = f"Crops moved by up to {augmentation.pad_crop} of {side} pixels"
            rows.append((told, augmentation.pad_crop / side, _CROP, "data.augmentation.pad_crop", max(side // 8, 1)))
            told = f"Cutout of {augmentation.cutout} of {side} pixels"
            rows.append((told, augmentation.cutout / side, _CUTOUT, "data.augmentation.cutout", side // 4))
        heavy = [row for row in rows if row[1] > row[2][0]]
        evidence = {row[3]: row[1] for row in rows}
        if not heavy:
            return self.found("ok", "No regulariser is far beyond what is usual.", evidence)
        sick = [row for row in heavy if row[1] > row[2][1]]
        verdict: Verdict = "problem" if sick else "warning"
        told = " ".join(f"{row[0]}." for row in (sick or heavy))
        remedy = Remedy("Bring back to what is usual.", {row[3]: row[4] for row in heavy})
        return self.found(verdict, told, evidence, remedy)


def _longer(case: Case, epochs: int) -> dict[str, Any]:
    if case.recipe.training.steps is not None:
        return {"training.steps": epochs * case.batches.steps_per_epoch}
    return {"training.epochs": epochs}
