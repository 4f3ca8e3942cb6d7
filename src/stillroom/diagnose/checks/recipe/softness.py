"""How soft the teacher's answer is at the recipe's temperature: what it still says of samples and of classes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stillroom.diagnose.checks.recipe.case import Case, mean_weight
from stillroom.diagnose.checks.recipe.check import Check, percent, require_teaching
from stillroom.diagnose.checks.recipe.parts import Skip
from stillroom.diagnose.checks.recipe.remedies import key_of, scaled_weight
from stillroom.diagnose.finding import Finding, Plot, Remedy, Verdict
from stillroom.losses.base import Loss
from stillroom.losses.targets import gradient_rescale

# Temperatures that are looked at, and from which a remedy is taken.
TEMPERATURES = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0)
# Spread of ω over the middle 80% of the images, relative to its median: below, the teacher weighs images alike. A run's
# own diagnosis turns at the same numbers.
GONE, FADING, BACK = 0.02, 0.05, 0.1
# What the likeliest class leaves to all others, in the middle image.
ONE_HOT, HARD, SOFT = 0.001, 0.01, 0.05
# How hard a term may pull, in times labels alone: usual is 2.
LOUD = 4.0
# Entropy as a share of that of a uniform answer. The middle one is reached at τ = 28 (digits), 50 (CIFAR-10) and 20
# (CIFAR-100), the last at 47, 77 and 30, where nobody has published a gain; published recipes end at 20.
VOID, UNIFORM, CLEAR = 0.998, 0.995, 0.95


@dataclass(frozen=True)
class Softened:
    """A term of the loss that softens the teacher's answer.

    Attributes:
        term: the term.
        temperature: τ.
        share: λ of ``L = (1 − λ)·CE + λ·H(p, q_τ)`` that rescales gradients as the recipe does; None of a term that is
            no divergence.
    """

    term: Loss[Any]
    temperature: float
    share: float | None


def softened(case: Case) -> list[Softened]:
    """The terms with a temperature.

    Raises:
        Skip: there are none.
    """
    labels = sum(mean_weight(term.config) for term in case.labelling)
    found: list[Softened] = []
    require_teaching(case)
    for term in case.teaching:
        temperature = term.config.softening_temperature
        if temperature is None:
            continue
        share = None
        if term.kl_like:
            alpha, beta = term.config.kl_shares
            weight = mean_weight(term.config)
            # These terms carry τ², so beside labels they count for λτ² where the formula has λ.
            taught = weight * beta * temperature**2
            share = taught / (labels + weight * alpha + taught) if taught else None
        found.append(Softened(term, temperature, share))
    if not found:
        raise Skip("No term of the loss softens the teacher's answer.")
    return found


def rescaling(logits: Tensor, labels: Tensor, temperature: float, share: float) -> Tensor:
    """ω of each image for a student that knows nothing yet, float64 [n]."""
    logits = logits.double()
    return gradient_rescale(torch.zeros_like(logits), logits, labels, temperature=temperature, weight=share)


def spread(values: Tensor) -> float:
    """How far the middle 80% of the values lie apart, relative to the median.

    >>> round(spread(torch.arange(1.0, 102.0)), 2)
    1.57
    """
    low, middle, high = (float(torch.quantile(values.double(), q)) for q in (0.1, 0.5, 0.9))
    return (high - low) / max(abs(middle), 1e-12)


def left_over(logits: Tensor, temperature: float) -> float:
    """What the likeliest class leaves to all others at τ, in the middle image."""
    scaled = logits.double() / temperature
    top = scaled.argmax(1, keepdim=True)
    # As a sum of the others: 1 − p would round to 0.
    others = scaled.softmax(1).scatter(1, top, 0.0).sum(1)
    return float(others.median())


def entropy(logits: Tensor, temperature: float) -> float:
    """Entropy at τ as a share of log K, in the middle image.

    >>> round(entropy(torch.zeros(1, 4), 1.0), 6)
    1.0
    """
    logs = (logits.double() / temperature).log_softmax(1)
    return float(-(logs.exp() * logs).sum(1).median()) / math.log(max(logits.shape[1], 2))


class TeacherConfidence(Check):
    """Whether the teacher still tells the student which images are hard."""

    name = "teacher_confidence"
    threshold = (
        f"Sick: ω, by which the teacher rescales each image's gradient, differs by less than {GONE:.0%} of its "
        "median over the middle 80% of the images, for a student that knows nothing yet; suspect below "
        f"{FADING:.0%}. Below that the teacher does to every image what a larger learning rate would. The middle "
        "80%, as a handful of images that the teacher has wrong carries any standard deviation."
    )
    source = (
        "Tang et al., arXiv 2002.03532: an over-capable teacher is uniformly sure, so that rescaling vanishes; raise τ."
    )

    def examine(self, case: Case) -> Finding:
        """Work out ω at the recipe's weights and temperature."""
        logits, labels = case.teacher_logits, case.sample.labels
        terms = [each for each in softened(case) if each.share is not None]
        if not terms:
            raise Skip("No term of the loss is a divergence from the teacher's softened answer.")
        found = {}
        for each in terms:
            assert each.share is not None
            omega = rescaling(logits, labels, each.temperature, each.share)
            found[each.term.name] = (spread(omega), each, omega)
        width, each, omega = min(found.values(), key=lambda row: row[0])
        assert each.share is not None
        share = each.share
        widths = {
            tau: spread(rescaling(logits, labels, tau, _moved(share, each.temperature, tau))) for tau in TEMPERATURES
        }
        evidence = {
            "spread": width,
            "variation": float(omega.std() / omega.mean()) if len(omega) > 1 else 0.0,
            "alike": float(((omega / omega.median() - 1).abs() < 0.01).double().mean()),
            "temperature": each.temperature,
            "term": each.term.name,
            "spread_by_temperature": {f"{tau:g}": value for tau, value in widths.items()},
        }
        alone = spread(rescaling(logits, labels, each.temperature, 1.0))
        verdict: Verdict = "problem" if width < GONE else "warning" if width < FADING else "ok"
        if alone >= BACK:
            # The teacher does tell images apart; a small weight hides it.
            verdict = "ok"
        told = f"{each.term.name} at τ = {each.temperature:g} weighs images {percent(width)} apart (middle 80%)."
        if verdict != "ok":
            told = (
                f"At τ = {each.temperature:g} the teacher is equally sure of nearly all images: ω differs by "
                f"{100 * width:.2g}% over the middle 80%."
            )
        plot = Plot(
            "line",
            "How far apart the teacher weighs images",
            TEMPERATURES,
            tuple(round(v, 5) for v in widths.values()),
            "temperature",
            "spread of ω, share of its median",
            GONE,
        )
        return self.found(verdict, told, evidence, self._remedy(case, each, widths), [plot])

    def _remedy(self, case: Case, each: Softened, widths: dict[float, float]) -> Remedy:
        logits = case.teacher_logits
        restores = [tau for tau, width in widths.items() if tau > each.temperature and width >= BACK]
        tau = between(logits, restores)
        if tau is None:
            return Remedy(
                f"No temperature up to {TEMPERATURES[-1]:g} tells its images apart: take an earlier checkpoint, or a "
                "smaller teacher."
            )
        return Remedy("Raise the temperature, so that the teacher's doubts are seen.", at_temperature(case, each, tau))


class Temperature(Check):
    """Whether the softened answer still says more than its likeliest class, and less than nothing."""

    name = "temperature"
    threshold = (
        f"Sick: in the middle image the likeliest class leaves less than {percent(ONE_HOT)} to all others at the "
        f"recipe's τ, suspect below {percent(HARD)}: the target is then the label, and what it says of the other "
        f"classes is lost beside it. Suspect: the softened answer has more than {percent(UNIFORM)} of the entropy of "
        f"a uniform one, sick {percent(VOID)}: the divergence is then the centred squared error of logits over 2K, "
        "for which there is logit_mse; it tells classes apart by what is noise in the least likely as well. Where "
        "all images are answered alike, too, teacher_confidence is the one to say sick."
    )
    source = "Hinton et al., arXiv 1503.02531; Kim et al., arXiv 2105.08919 for the limit of a high temperature."

    def examine(self, case: Case) -> Finding:
        """Measure the target's softness at each term's temperature."""
        logits, labels = case.teacher_logits, case.sample.labels
        terms = softened(case)
        rank = {"ok": 0, "warning": 1, "problem": 2}
        judged = []
        for each in terms:
            left, share = left_over(logits, each.temperature), entropy(logits, each.temperature)
            verdict: Verdict = "ok"
            if left < HARD:
                alike = spread(rescaling(logits, labels, each.temperature, each.share or 1.0)) < GONE
                verdict = "warning" if left >= ONE_HOT or (alike and each.share is not None) else "problem"
            elif share > UNIFORM:
                verdict = "problem" if share > VOID else "warning"
            judged.append((verdict, left, share, each))
        verdict, left, share, each = max(judged, key=lambda row: (rank[row[0]], -row[1]))
        evidence = {
            "left_to_others": left,
            "entropy": share,
            "temperature": each.temperature,
            "term": each.term.name,
            "entropy_by_temperature": {f"{tau:g}": entropy(logits, tau) for tau in TEMPERATURES},
        }
        told = (
            f"At τ = {each.temperature:g} the likeliest class leaves {percent(left)} to the others; entropy is "
            f"{percent(share)} of the largest."
        )
        if verdict != "ok" and left < HARD:
            told = (
                f"At τ = {each.temperature:g} the target of {each.term.name} is nearly the label: the likeliest "
                f"class leaves {percent(left)} to the others."
            )
        elif verdict != "ok":
            told = (
                f"At τ = {each.temperature:g} the target of {each.term.name} is nearly uniform: {100 * share:.2f}% "
                "of the largest entropy."
            )
        plot = Plot(
            "line",
            "Entropy of the softened answer",
            TEMPERATURES,
            tuple(round(entropy(logits, tau), 5) for tau in TEMPERATURES),
            "temperature",
            "share of log K",
            UNIFORM,
        )
        return self.found(verdict, told, evidence, self._remedy(case, each, logits), [plot])

    def _remedy(self, case: Case, each: Softened, logits: Tensor) -> Remedy:
        tau = between(logits, TEMPERATURES)
        if tau is None:
            return Remedy("No temperature that is usual is between the two: take another teacher, or logit_mse.")
        return Remedy("Take a temperature between the two.", at_temperature(case, each, tau))


def pull(logits: Tensor, temperature: float) -> float:
    """How hard ``kl`` pulls at the logits of a student that knows nothing, over how hard labels do.

    Formula: the mean of ``τ·‖p_τ − 1/K‖`` over ``√(1 − 1/K)``, by τ² times the gradient of the divergence.

    >>> round(pull(torch.tensor([[60.0, 0.0, 0.0]]), 2.0), 6)
    2.0
    """
    p = (logits.double() / temperature).softmax(1)
    k = p.shape[1]
    return float((p - 1 / k).norm(dim=1).mean()) * temperature / math.sqrt(1 - 1 / k)


def at_temperature(case: Case, each: Softened, tau: float) -> dict[str, Any]:
    """Overrides for another temperature; of a divergence that then pulled far harder than labels, the weight as well.

    Logits that a sure teacher makes large stay as large at a high temperature, and a student is asked for all of that.
    """
    overrides = {key_of(case, each.term, "temperature"): tau}
    loud = mean_weight(each.term.config) * pull(case.teacher_logits, tau) if each.share is not None else 0.0
    if loud > LOUD:
        overrides[key_of(case, each.term, "weight")] = scaled_weight(each.term, 1 / loud)
    return overrides


def between(logits: Tensor, temperatures: Iterable[float]) -> float | None:
    """Of some temperatures, one at which the answer is neither a label nor uniform; None where there is none."""
    good = [tau for tau in temperatures if left_over(logits, tau) >= SOFT and entropy(logits, tau) <= CLEAR]
    # 4 is where most that was published was measured.
    tau = min(good, key=lambda t: abs(math.log(t / 4)), default=None)
    return int(tau) if tau is not None and tau.is_integer() else tau


def _moved(share: float, now: float, then: float) -> float:
    """The share λ of the same weights at another temperature: the term carries τ²."""
    taught = share * (then / now) ** 2
    return taught / (1 - share + taught)
