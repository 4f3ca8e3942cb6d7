"""Whether the terms of the loss can be heard beside each other, and together are of the size that the rate is for."""

from __future__ import annotations

from typing import Any

from stillroom.diagnose.checks.recipe.case import Case, mean_weight
from stillroom.diagnose.checks.recipe.check import Check, require_teaching
from stillroom.diagnose.checks.recipe.gradients import IMAGES
from stillroom.diagnose.checks.recipe.remedies import key_of, scaled_weight
from stillroom.diagnose.checks.recipe.softness import ONE_HOT, TEMPERATURES, between, left_over
from stillroom.diagnose.finding import Finding, Plot, Remedy, Verdict

# The teacher's pull over the labels': below, it moves the weights less than another order of the images does; a run's
# own diagnosis turns at the same shares.
STARVED, FAINT = 0.02, 0.1
# The labels' pull as a share of the teacher's: 1/10 to 1/30 in runs that go well with .1 labels and .9 kl.
DROWNED = 0.003
# A loss that pulls less than so many times as hard as plain labels is not what makes the rate too high.
_LARGE = 5.0
# What the peak rate of sgd comes to, times how much larger the loss's gradient is than that of plain labels: .1 to .3
# in runs that go well. A student of digits lost 10 to 25 points at 2 and all of them at 6.
FAST, TOO_FAST = 1.0, 1.5


def effective_rate(case: Case, size: float) -> float | None:
    """The peak rate that sgd with a momentum of .9 would have to have to move plain labels as this loss is moved.

    None where the size of a gradient does not matter: AdamW divides by it, clipping bounds it.
    """
    training = case.recipe.training
    optimizer = training.optimizer
    if optimizer.name != "sgd" or training.clip_norm is not None:
        return None
    return size * optimizer.lr * 0.1 / (1 - optimizer.momentum)


class LossBalance(Check):
    """Whether labels and teacher pull at the student with forces that can both be felt."""

    name = "loss_balance"
    threshold = (
        f"Norms of gradients in the student's weights as it begins, over {IMAGES} images. Sick: the teacher's terms "
        f"pull with less than {STARVED:.0%} of the labels' force (suspect below {FAINT:.0%}); or the whole loss "
        f"pulls so much harder than plain labels ({_LARGE:g} times or more) that the rate comes to {TOO_FAST:g} or "
        f"more (suspect from {FAST:g}), counted for sgd with a momentum of .9: students of digits at .1 and this "
        f"loss lost 10 to 25 points at 2, and all at 6. Suspect: the labels pull with less than {DROWNED:.1%} of the "
        "teacher's force."
    )
    source = "kl carries τ², so its gradient does not fade with τ, and a weight above 1 is a larger learning rate too."

    def examine(self, case: Case) -> Finding:
        """Weigh the terms' gradients against each other."""
        require_teaching(case)
        pulls = case.gradients
        weighed = {term.name: mean_weight(term.config) * pulls.terms[term.name] for term in case.losses}
        taught = sum(weighed[term.name] for term in case.teaching)
        labels = sum(weighed[term.name] for term in case.labelling)
        plain = max(pulls.plain, 1e-30)
        rate = effective_rate(case, (taught + labels) / plain)
        ratio = taught / labels if labels else None
        evidence: dict[str, Any] = {
            "teacher_over_labels": ratio,
            "loss_over_plain_labels": (taught + labels) / plain,
            "effective_rate": rate,
            "norms": weighed,
            "cosines_with_labels": pulls.cosines,
        }
        verdict, told = self._judged(case, taught, labels, plain, rate)
        # As strong as the labels would be alone.
        remedy = self._remedy(case, plain / max(taught, 1e-30))
        if verdict != "ok" and taught < labels and (sharp := _sharp(case)) is not None:
            verdict = "warning"
            told = f"{told[:-1]}: at its temperature the teacher leaves nothing to weigh by; see temperature."
            remedy = sharp
        names = tuple(weighed)
        plot = Plot(
            "bars", "How hard each term pulls", names, tuple(round(weighed[n], 5) for n in names), "", "norm × weight"
        )
        return self.found(verdict, told, evidence, remedy, [plot])

    def _judged(
        self, case: Case, taught: float, labels: float, plain: float, rate: float | None
    ) -> tuple[Verdict, str]:
        """The verdict, and why."""
        names = " and ".join(term.name for term in case.teaching)
        if labels and taught < FAINT * labels:
            share = f"{100 * taught / labels:.2g}%"
            verdict: Verdict = "problem" if taught < STARVED * labels else "warning"
            return verdict, f"The teacher is hardly heard: {names} pulls with {share} of the labels' force."
        times = (taught + labels) / plain
        if rate is not None and rate >= FAST and times >= _LARGE:
            lr = case.recipe.training.optimizer.lr
            told = (
                f"The loss pulls {times:.3g} times as hard as labels would: at a rate of {lr:g} the student is moved "
                f"as by one of {rate:.2g}."
            )
            if labels and labels < taught / 30:
                told = f"{told[:-1]}, and the labels are {100 * labels / taught:.2g}% of it."
            return "problem" if rate >= TOO_FAST else "warning", told
        if labels and labels < DROWNED * taught:
            share = f"{100 * labels / taught:.2g}%"
            return "warning", f"The labels are hardly heard: they pull with {share} of the force of {names}."
        if not labels:
            return "ok", f"{names} alone pulls {taught / plain:.2g} times as hard as labels would."
        return "ok", f"{names} pulls {taught / labels:.2g} times as hard as the labels do; both are heard."

    def _remedy(self, case: Case, factor: float) -> Remedy:
        overrides = {key_of(case, term, "weight"): scaled_weight(term, factor) for term in case.teaching}
        return Remedy("Weigh the teacher so that it pulls as hard as labels alone would.", overrides)


def _sharp(case: Case) -> Remedy | None:
    """The remedy of a temperature at which Fisher weights vanish, if that is why a term is not heard."""
    for term in case.teaching:
        if term.kl_like or not term.has_temperature:
            continue
        temperature: float = term.config.temperature
        if left_over(case.teacher_logits, temperature) < ONE_HOT:
            wanted = between(case.teacher_logits, TEMPERATURES)
            overrides = {key_of(case, term, "temperature"): wanted} if wanted is not None else {}
            return Remedy("Take a temperature at which the teacher is in some doubt.", overrides)
    return None
