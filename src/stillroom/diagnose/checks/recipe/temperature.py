"""Checks of the softened targets: whether they still tell samples and classes apart at the recipe's temperature."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stillroom.diagnose.check import CheckResult, Limits, Skip, check, percent
from stillroom.diagnose.checks.recipe.context import CheckContext
from stillroom.diagnose.remedies import mean_weight, scaled_weight
from stillroom.losses.base import Loss
from stillroom.losses.targets import gradient_rescale
from stillroom.schema.diagnosis import VERDICTS, Plot, Remedy, Verdict

# Temperatures that are measured, and that a remedy is chosen from.
TEMPERATURES = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0)
SPREAD = Limits(
    warning=0.05,
    problem=0.02,
    why="spread of ω over the middle 80% of the images, relative to its median: below, images get nearly equal weights",
)
# The spread that a remedy must restore.
_RESTORED = 0.1
LEFT_OVER = Limits(
    warning=0.01,
    problem=0.001,
    why="probability that the likeliest class leaves to all others, in the median image",
)
# What a remedy must leave to them.
_SOFT = 0.05
ENTROPY = Limits(
    warning=0.995,
    problem=0.998,
    why="share of the entropy of a uniform target: the warning is reached at τ = 28 (digits), 50 (CIFAR-10) and 20 "
    "(CIFAR-100), the problem at 47, 77 and 30, where nobody has published a gain; published recipes end at 20",
)
# The largest entropy that a remedy may leave.
_CLEAR = 0.95
# How large a term's gradient may be, relative to that of labels alone: usual is 2.
_LOUD = 4.0


@dataclass(frozen=True)
class SoftTerm:
    """A term of the loss that softens the teacher's logits."""

    term: Loss[Any]  # the term
    temperature: float  # τ
    # Λ of ``L = (1 − λ)·CE + λ·H(p, q_τ)`` that rescales gradients as the recipe does; None of a term that is no
    # divergence.
    share: float | None


def soft_terms(context: CheckContext) -> list[SoftTerm]:
    """The terms of the loss with a temperature; Skip where there are none."""
    labels = sum(mean_weight(term.config) for term in context.label_losses)
    found: list[SoftTerm] = []
    context.require_distillation()
    for term in context.teacher_losses:
        temperature = term.config.softening_temperature
        if temperature is None:
            continue
        share = None
        if term.kl_like:
            alpha, beta = term.config.kl_shares
            weight = mean_weight(term.config)
            # These terms carry τ², so with labels they count for λτ² where the formula has λ.
            soft = weight * beta * temperature**2
            share = soft / (labels + weight * alpha + soft) if soft else None
        found.append(SoftTerm(term, temperature, share))
    if not found:
        raise Skip("No loss term softens the teacher's logits.")
    return found


def share_at(share: float, temperature: float, other: float) -> float:
    """The share λ of a term of the same weight at another temperature: the term carries τ².

    >>> round(share_at(0.5, 1.0, 2.0), 6)
    0.8
    """
    soft = share * (other / temperature) ** 2
    return soft / (1 - share + soft)


def gradient_factors(logits: Tensor, labels: Tensor, temperature: float, share: float) -> Tensor:
    """ω of each image for an untrained student, float64 [n]."""
    logits = logits.double()
    return gradient_rescale(torch.zeros_like(logits), logits, labels, temperature=temperature, weight=share)


def spread(values: Tensor) -> float:
    """Range of the middle 80% of the values, relative to the median.

    >>> round(spread(torch.arange(1.0, 102.0)), 2)
    1.57
    """
    low, middle, high = (float(torch.quantile(values.double(), q)) for q in (0.1, 0.5, 0.9))
    return (high - low) / max(abs(middle), 1e-12)


def left_over(logits: Tensor, temperature: float) -> float:
    """Probability that the likeliest class leaves to all others at τ, in the median image."""
    scaled = logits.double() / temperature
    top = scaled.argmax(1, keepdim=True)
    # As a sum of the others: 1 − p would round to 0.
    others = scaled.softmax(1).scatter(1, top, 0.0).sum(1)
    return float(others.median())


def entropy(logits: Tensor, temperature: float) -> float:
    """Entropy at τ as a share of log K, in the median image.

    >>> round(entropy(torch.zeros(1, 4), 1.0), 6)
    1.0
    """
    logs = (logits.double() / temperature).log_softmax(1)
    return float(-(logs.exp() * logs).sum(1).median()) / math.log(max(logits.shape[1], 2))


@check(
    threshold=(
        f"Problem: ω, by which the teacher rescales each $image's gradient, differs by less than {SPREAD.problem:.0%} "
        f"of its median over the middle 80% of the $images, for an untrained student; warning: below "
        f"{SPREAD.warning:.0%}. Below that the teacher acts like a larger learning rate on every $image. The "
        "middle 80%, because a handful of $images that the teacher misclassifies carries any standard deviation."
    ),
    source=(
        "Tang et al., arXiv 2002.03532: an over-capable teacher is uniformly sure, so that rescaling vanishes; raise τ."
    ),
    limits=[SPREAD],
)
def teacher_confidence(context: CheckContext) -> CheckResult:
    """Whether the teacher still tells the student which images are hard."""
    logits, labels = context.teacher_logits, context.sample.labels
    terms = [each for each in soft_terms(context) if each.share is not None]
    if not terms:
        raise Skip("No loss term is a divergence from the teacher's softened logits.")
    found = {}
    for each in terms:
        assert each.share is not None
        omega = gradient_factors(logits, labels, each.temperature, each.share)
        found[each.term.name] = (spread(omega), each, omega)
    width, each, omega = min(found.values(), key=lambda row: row[0])
    assert each.share is not None
    widths = {
        tau: spread(gradient_factors(logits, labels, tau, share_at(each.share, each.temperature, tau)))
        for tau in TEMPERATURES
    }
    evidence = {
        "spread": width,
        "variation": float(omega.std() / omega.mean()) if len(omega) > 1 else 0.0,
        "alike": float(((omega / omega.median() - 1).abs() < 0.01).double().mean()),
        "temperature": each.temperature,
        "term": each.term.name,
        "spread_by_temperature": {f"{tau:g}": value for tau, value in widths.items()},
    }
    verdict = SPREAD.below(width)
    if spread(gradient_factors(logits, labels, each.temperature, 1.0)) >= _RESTORED:
        # The teacher does tell images apart; a small weight hides it.
        verdict = "ok"
    summary = (
        f"{each.term.name} at τ = {each.temperature:g} weights $images with a spread of {percent(width)} (middle 80%)."
    )
    if verdict != "ok":
        summary = (
            f"At τ = {each.temperature:g} the teacher is equally confident on nearly all $images: ω differs by "
            f"{100 * width:.2g}% over the middle 80%."
        )
    plot = Plot(
        "line",
        "How differently the teacher weights $images",
        TEMPERATURES,
        tuple(round(v, 5) for v in widths.values()),
        "temperature",
        "spread of ω, share of its median",
        SPREAD.problem,
    )
    restoring = [tau for tau, value in widths.items() if tau > each.temperature and value >= _RESTORED]
    tau = _best_temperature(logits, restoring)
    remedy = Remedy(
        f"No temperature up to {TEMPERATURES[-1]:g} separates its $images: use an earlier checkpoint, or a smaller "
        "teacher."
    )
    if tau is not None:
        words = "Raise the temperature, so that the teacher's uncertainty shows."
        remedy = Remedy(words, _at_temperature(context, each, tau))
    return CheckResult(verdict, summary, evidence, remedy, [plot])


@check(
    threshold=(
        f"Problem: in the median $image the likeliest class leaves less than {percent(LEFT_OVER.problem)} to all "
        f"others at the recipe's τ; warning: below {percent(LEFT_OVER.warning)}: the target is then the label, and "
        f"what it holds about the other classes is negligible. Warning: the softened target has more than "
        f"{percent(ENTROPY.warning)} of the entropy of a uniform one; problem: {percent(ENTROPY.problem)}: the "
        "divergence is then the centred squared error of logits over 2K, for which there is logit_mse; it also weighs "
        "the noise in the least likely classes. If all $images also get similar targets, teacher_confidence reports "
        "the problem and this is a warning."
    ),
    source="Hinton et al., arXiv 1503.02531; Kim et al., arXiv 2105.08919 for the limit of a high temperature.",
    limits=[LEFT_OVER, ENTROPY],
)
def temperature(context: CheckContext) -> CheckResult:
    """Whether the softened target says more than its likeliest class, and is not uniform."""
    logits, labels = context.teacher_logits, context.sample.labels
    judged = []
    for each in soft_terms(context):
        left, share = left_over(logits, each.temperature), entropy(logits, each.temperature)
        verdict: Verdict = "ok"
        if left < LEFT_OVER.warning:
            omega = gradient_factors(logits, labels, each.temperature, each.share or 1.0)
            are_alike = spread(omega) < SPREAD.problem and each.share is not None
            verdict = "warning" if left >= LEFT_OVER.problem or are_alike else "problem"
        elif share > ENTROPY.warning:
            verdict = "problem" if share > ENTROPY.problem else "warning"
        judged.append((verdict, left, share, each))
    verdict, left, share, each = min(judged, key=lambda row: (VERDICTS.index(row[0]), row[1]))
    evidence = {
        "left_to_others": left,
        "entropy": share,
        "temperature": each.temperature,
        "term": each.term.name,
        "entropy_by_temperature": {f"{tau:g}": entropy(logits, tau) for tau in TEMPERATURES},
    }
    summary = (
        f"At τ = {each.temperature:g} the likeliest class leaves {percent(left)} to the others; entropy is "
        f"{percent(share)} of the largest."
    )
    if verdict != "ok" and left < LEFT_OVER.warning:
        summary = (
            f"At τ = {each.temperature:g} the target of {each.term.name} is nearly the label: the likeliest class "
            f"leaves {percent(left)} to the others."
        )
    elif verdict != "ok":
        summary = (
            f"At τ = {each.temperature:g} the target of {each.term.name} is nearly uniform: {100 * share:.2f}% of the "
            "largest entropy."
        )
    plot = Plot(
        "line",
        "Entropy of the softened target",
        TEMPERATURES,
        tuple(round(entropy(logits, tau), 5) for tau in TEMPERATURES),
        "temperature",
        "share of log K",
        ENTROPY.warning,
    )
    tau = _best_temperature(logits, TEMPERATURES)
    remedy = Remedy("No usual temperature is between the two: use another teacher, or logit_mse.")
    if tau is not None:
        remedy = Remedy("Use a temperature between the two.", _at_temperature(context, each, tau))
    return CheckResult(verdict, summary, evidence, remedy, [plot])


def sharp_target_remedy(context: CheckContext) -> Remedy | None:
    """The remedy of a temperature at which Fisher weights vanish, if that is why a term has no gradient."""
    for term in context.teacher_losses:
        if term.kl_like or not term.has_temperature:
            continue
        if left_over(context.teacher_logits, term.config.temperature) < LEFT_OVER.problem:
            wanted = _best_temperature(context.teacher_logits, TEMPERATURES)
            overrides = {context.option_path(term, "temperature"): wanted} if wanted is not None else {}
            return Remedy("Use a temperature at which the teacher is uncertain.", overrides)
    return None


def kl_gradient(logits: Tensor, temperature: float) -> float:
    """Gradient norm of ``kl`` in the logits of an untrained student, over that of cross-entropy.

    Formula: the mean of ``τ·‖p_τ − 1/K‖`` over ``√(1 − 1/K)``, by τ² times the gradient of the divergence.

    >>> round(kl_gradient(torch.tensor([[60.0, 0.0, 0.0]]), 2.0), 6)
    2.0
    """
    p = (logits.double() / temperature).softmax(1)
    k = p.shape[1]
    return float((p - 1 / k).norm(dim=1).mean()) * temperature / math.sqrt(1 - 1 / k)


def _at_temperature(context: CheckContext, each: SoftTerm, tau: float) -> dict[str, Any]:
    """Overrides for another temperature, and a smaller weight where the gradient would dwarf that of labels.

    A confident teacher's large logits stay large at a high temperature.
    """
    overrides: dict[str, Any] = {context.option_path(each.term, "temperature"): tau}
    loud = 0.0
    if each.share is not None:
        loud = mean_weight(each.term.config) * kl_gradient(context.teacher_logits, tau)
    if loud > _LOUD:
        overrides[context.option_path(each.term, "weight")] = scaled_weight(each.term.config, 1 / loud)
    return overrides


def _best_temperature(logits: Tensor, temperatures: Iterable[float]) -> float | None:
    """Of some temperatures the one nearest to 4 at which the target is neither a label nor uniform."""
    good = [tau for tau in temperatures if left_over(logits, tau) >= _SOFT and entropy(logits, tau) <= _CLEAR]
    # 4 is where most published results were measured.
    tau = min(good, key=lambda t: abs(math.log(t / 4)), default=None)
    return int(tau) if tau is not None and tau.is_integer() else tau
