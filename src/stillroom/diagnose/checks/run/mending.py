"""What to change in the recipe of a run that blew up, was too short, or learned by heart."""

from __future__ import annotations

from typing import Any

from stillroom.diagnose.checks.run.reading import Case
from stillroom.diagnose.checks.run.regularisers import USUAL_DECAY
from stillroom.diagnose.finding import Remedy

# Rates below which a run is short of rate rather than of steps, and rates that most students learn at.
LOW_RATE = {"sgd": 0.01, "adamw": 1e-4}
USUAL_RATE = {"sgd": 0.1, "adamw": 1e-3}
# Side in pixels from which crops may be moved.
SMALL = 16


def calmer(case: Case) -> Remedy:
    """Smaller weights where the terms' sum makes the steps large, else a smaller rate; and a clipped gradient."""
    overrides: dict[str, Any] = {}
    optimizer = case.recipe.training.optimizer
    loud = {name: weight for name, weight in case.weights.items() if weight > 3}
    words = "The weights of the loss multiply every step: bring them near 1, and clip the gradient."
    for name in loud:
        overrides[f"losses.{name}.weight"] = 1.0
    if not loud:
        rate = float(f"{min(optimizer.lr / 10, USUAL_RATE[optimizer.name]):.2g}")
        words = f"Lower the learning rate from {optimizer.lr:g} to {rate:g}, and clip the gradient."
        overrides["training.optimizer.lr"] = rate
    if case.recipe.training.clip_norm is None:
        overrides["training.clip_norm"] = 1.0
    return Remedy(words, overrides)


def low_rate(case: Case) -> float:
    """The peak rate below which a run is short of rate, for the recipe's own momentum."""
    optimizer = case.recipe.training.optimizer
    scale = (1 - optimizer.momentum) / 0.1 if optimizer.name == "sgd" else 1.0
    return LOW_RATE[optimizer.name] * scale


def longer(case: Case) -> Remedy:
    """A higher rate where that is what was wanting, else more steps."""
    training = case.recipe.training
    optimizer = training.optimizer
    if optimizer.lr < low_rate(case):
        rate = float(f"{min(optimizer.lr * 10, USUAL_RATE[optimizer.name]):.2g}")
        return Remedy(
            f"Raise the learning rate from {optimizer.lr:g} to {rate:g}: at so low a rate more steps help little.",
            {"training.optimizer.lr": rate},
        )
    if training.steps is not None:
        steps = max(2 * training.steps, 10 * (case.steps_per_epoch or 0))
        return Remedy(f"Train for longer: {steps:,} steps in place of {training.steps:,}.", {"training.steps": steps})
    epochs = max(2 * round(case.epochs), 10)
    words = f"Train for longer: {epochs} epochs in place of {round(case.epochs)}."
    return Remedy(words, {"training.epochs": epochs})


def milder(case: Case) -> Remedy:
    """The first of what the recipe lacks: a louder teacher, crops, weight decay; else fewer epochs."""
    augmentation, optimizer = case.recipe.data.augmentation, case.recipe.training.optimizer
    labels, kl = case.part("labels"), case.part("teacher")
    plain = not any(term.has_schedule for term in case.recipe.losses)
    if labels and kl and plain and case.weights[kl] < case.weights[labels]:
        overrides = {f"losses.{kl}.weight": 0.9, f"losses.{labels}.weight": 0.1}
        return Remedy("Listen more to the teacher, whose soft answers are not so soon learned by heart.", overrides)
    # Of a smaller image even one pixel is much.
    if case.side and case.side >= SMALL and not augmentation.pad_crop:
        pixels = case.side // 8
        told = (
            f"Show crops moved by up to {pixels} of {case.side} pixels; mirror images too where that keeps their class."
        )
        return Remedy(told, {"data.augmentation.pad_crop": pixels})
    usual = float(f"{USUAL_DECAY / optimizer.lr:.1g}")
    if optimizer.weight_decay < usual / 2:
        told = f"Raise the weight decay from {optimizer.weight_decay:g} to {usual:g}."
        return Remedy(told, {"training.optimizer.weight_decay": usual})
    if case.recipe.training.steps is None:
        epochs = max(round(case.epochs / 2), 1)
        return Remedy(f"Stop earlier: {epochs} epochs. More data would serve better.", {"training.epochs": epochs})
    steps = max(case.recipe.training.steps // 2, 1)
    return Remedy(f"Stop earlier: {steps:,} steps. More data would serve better.", {"training.steps": steps})
