"""Whether rate, decay and length are of the size that trains anything: arithmetic, before a step is made."""

from __future__ import annotations

from typing import Any

from stillroom.diagnose.finding import Finding, Remedy, Verdict
from stillroom.diagnose.preflight.case import Case
from stillroom.diagnose.preflight.check import Check
from stillroom.training.optimisation import lr_factor

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
_FEW, _TOO_FEW = 100, 20
_WARM_UP = 5


class LearningRate(Check):
    """Whether the rate and the decay are of a usual size."""

    name = "learning_rate"
    threshold = (
        f"Peak rates, those of sgd times .1/(1 − momentum): suspect from {_HIGH['sgd'][0]:g} (sgd) and "
        f"{_HIGH['adamw'][0]:g} (adamw), sick from {_HIGH['sgd'][1]:g} and {_HIGH['adamw'][1]:g}; suspect below "
        f"{_LOW['sgd'][0]:g} and {_LOW['adamw'][0]:g}, sick below {_LOW['sgd'][1]:g} and {_LOW['adamw'][1]:g}: some "
        f"times, and a hundredth, of what nearly all recipes take. Rate times decay: suspect from {_FORGETS:g}, sick "
        f"from {_FORGETS_ALL:g} a step, where a weight is forgotten within 1,000 steps; usual is 5e-5."
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
        verdict: Verdict = "healthy"
        told = (
            f"A peak rate of {optimizer.lr:g} and a decay of {optimizer.weight_decay:g} are of a usual size for {kind}."
        )
        remedy = Remedy("Begin from a usual rate.", {"training.optimizer.lr": usual})
        if rate >= high[0]:
            verdict = "sick" if rate >= high[1] else "suspect"
            told = f"A peak rate of {optimizer.lr:g} is {rate / _USUAL[kind]:.3g} times what is usual for {kind}."
        elif rate < low[0]:
            verdict = "sick" if rate < low[1] else "suspect"
            told = f"A peak rate of {optimizer.lr:g} is a {_USUAL[kind] / rate:,.0f}th of what is usual for {kind}."
        elif forgets >= _FORGETS:
            verdict = "sick" if forgets >= _FORGETS_ALL else "suspect"
            told = (
                f"A decay of {optimizer.weight_decay:g} at a rate of {optimizer.lr:g} forgets a weight within "
                f"{1 / forgets:,.0f} steps."
            )
            decay = float(f"{_USUAL_DECAY / optimizer.lr:.1g}")
            remedy = Remedy("Decay as is usual at this rate.", {"training.optimizer.weight_decay": decay})
        return self.found(verdict, told, evidence, remedy)


class Budget(Check):
    """Whether there are steps enough to learn in."""

    name = "budget"
    threshold = (
        f"Suspect below {_FEW} steps in all, sick below {_TOO_FEW}; suspect where not every image is seen once, or "
        f"where the warm-up of one_cycle has fewer than {_WARM_UP} steps: from a 25th of the peak each then jumps by "
        "more than half of it. A student of digits needs some 200 steps."
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
        verdict: Verdict = "healthy"
        told = f"{total:,} steps, {total / each:.3g} epochs of {each:,}."
        batch = case.recipe.data.batch_size
        wanted = -(-2 * _FEW // each)
        remedy = Remedy("Train longer.", _longer(case, max(wanted, 1)))
        if total < _FEW:
            verdict = "sick" if total < _TOO_FEW else "suspect"
            told = f"{total:,} steps of {batch:,} images are too few to learn much in."
        elif total < each:
            verdict = "suspect"
            told = f"{total:,} steps see {100 * total / each:.0f}% of the training images, each once at the most."
            remedy = Remedy("Train for an epoch at least.", _longer(case, 1))
        elif training.schedule.name == "one_cycle" and peak is not None and peak < _WARM_UP:
            verdict = "suspect"
            told = f"one_cycle comes to its peak rate in {peak} of {total:,} steps."
            remedy = Remedy("Leave the warm-up its usual three tenths.", {"training.schedule.warmup": 0.3})
        return self.found(verdict, told, evidence, remedy)


def _longer(case: Case, epochs: int) -> dict[str, Any]:
    if case.recipe.training.steps is not None:
        return {"training.steps": epochs * case.batches.steps_per_epoch}
    return {"training.epochs": epochs}
