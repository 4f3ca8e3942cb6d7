"""The published search for σ: 80 steps of plain descent from σ = .01, and the σ on its way whose entropy is wanted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

START, LOWEST, HIGHEST = 0.01, 0.001, 1.0
RATE = 1e-4
STEPS = 80
# Where the entropy has not passed the stop by then, its weight is raised for the steps that are left.
PATIENCE, RAISE = 60, 1.5


@dataclass(frozen=True)
class Descent:
    """Where the search came to.

    Attributes:
        sigma: the σ that is kept, [B, g, g].
        steps: how many steps were made, of each image, int64 [B].
    """

    sigma: Tensor
    steps: Tensor


def entropy_of(sigma: Tensor) -> Tensor:
    """H = log σ + ½·log(2πe), the entropy of Gaussian noise in nats.

    >>> round(float(entropy_of(torch.tensor(0.01))), 4)
    -3.1862
    """
    return sigma.log() + 0.5 * math.log(2 * math.pi * math.e)


def descend(
    gradient: Callable[[Tensor, Tensor], Tensor],
    sigma: Tensor,
    *,
    weight: float,
    stop: float | None,
) -> Descent:
    """Minimise MSE(f(x + σ⊙ε), f(x))/σ_f − λ·mean_i H_i as published, each image by itself.

    σ ← clamp(σ, .001, 1), then σ_i ← σ_i − 10⁻⁴·(∂(MSE/σ_f)/∂σ_i − λ/(g²·σ_i)), at most 80 times. Of the σ before each
    step, the first whose mean entropy is nearest ``stop`` is kept. After 60 steps an image whose mean entropy has been
    above ``stop`` is done; for others λ becomes 1.5·λ.

    Args:
        gradient: ∂(MSE/σ_f)/∂σ [b, g, g] at σ [b, g, g] of the images of an index [b].
        sigma: where to start, [B, g, g].
        weight: λ.
        stop: the mean entropy, in nats; None makes all 80 steps with λ and keeps the last σ.

    >>> start = torch.full((1, 16, 16), 0.01)
    >>> still = descend(lambda sigma, which: torch.zeros_like(sigma), start, weight=7, stop=-2.8)
    >>> still.steps.tolist(), round(float(still.sigma.mean()), 4)
    ([60], 0.0147)
    """
    sigma = sigma.clone()
    kept, distance = sigma.clone(), torch.full((len(sigma),), math.inf, dtype=sigma.dtype, device=sigma.device)
    highest = torch.full_like(distance, -math.inf)
    steps = torch.zeros(len(sigma), dtype=torch.int64, device=sigma.device)
    which = torch.arange(len(sigma), device=sigma.device)
    factor = weight / sigma[0].numel()
    for step in range(STEPS):
        now = sigma[which].clamp_(LOWEST, HIGHEST)
        if stop is not None:
            level = entropy_of(now).mean((1, 2))
            nearer = (level - stop).abs() < distance[which]
            kept[which[nearer]] = now[nearer]
            distance[which] = torch.minimum(distance[which], (level - stop).abs())
            highest[which] = torch.maximum(highest[which], level)
        sigma[which] = now - RATE * (gradient(now, which) - factor / now)
        steps[which] += 1
        if stop is not None and step == PATIENCE - 1:
            which = which[highest[which] <= stop]
            factor *= RAISE
            if not len(which):
                break
    return Descent(sigma.clamp(LOWEST, HIGHEST) if stop is None else kept, steps)


def follow(energies: Tensor, sigma_f: Tensor, *, weight: float, stop: float | None) -> Tensor:
    """The σ that the search comes to where the error is quadratic: MSE = Σ_i a_i·σ_i².

    With ``stop=None``, the optimum σ_i = √(λ·σ_f/(2·g²·a_i)) within [.001, 1], which is .01·√(λ·ā/(2·a_i)) where
    σ_f = 10⁻⁴·Σ_i a_i; a cell with a_i ≤ 0, whose noise costs nothing, has 1.

    Args:
        energies: a, [B, g, g].
        sigma_f: the error at σ = .01, [B].
        weight: λ.
        stop: the mean entropy to stop at, in nats.

    Returns:
        σ [B, g, g].

    >>> energies = torch.tensor([[[1.0, 4.0]]], dtype=torch.float64)
    >>> follow(energies, 1e-4 * energies.sum((1, 2)), weight=8, stop=None)
    tensor([[[0.0316, 0.0158]]], dtype=torch.float64)
    """
    ratio = energies / sigma_f[:, None, None]
    if stop is None:
        optimum = (weight / (2 * energies[0].numel() * ratio)).sqrt()
        return torch.where(ratio > 0, optimum, HIGHEST).clamp(LOWEST, HIGHEST)
    start = torch.full_like(ratio, START)
    return descend(lambda sigma, which: 2 * ratio[which] * sigma, start, weight=weight, stop=stop).sigma
