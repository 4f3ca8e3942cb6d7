"""Linear networks, whose energies are known, and what the published search does with them, worked out apart."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]
CONSTANT = 0.5 * math.log(2 * math.pi * math.e)


class Linear:
    """f(x) = J·x + .3, its columns scaled so that the cells' energies differ by a log-sd of ``spread``.

    ``energies`` are Σ of ‖J_p‖²/m over the pixels p of each cell, [16, 16].
    """

    def __init__(self, spread: float, *, channels: int = 3, side: int = 32, wide: int = 200, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        jacobian = torch.randn(wide, channels, side, side, generator=generator)
        # Some directions of the features move more than others, as in a network.
        jacobian *= (torch.arange(1, wide + 1) ** -0.5)[:, None, None, None]
        scale = (spread / 2 * torch.randn(16, 16, generator=generator)).exp()
        jacobian *= scale.repeat_interleave(side // 16, 0).repeat_interleave(side // 16, 1)
        self.jacobian = jacobian.flatten(1)
        squares = jacobian.double().square().sum((0, 1)) / wide
        self.energies = squares.reshape(16, side // 16, 16, side // 16).sum((1, 3)).numpy()
        self.images = torch.randn(2, channels, side, side, generator=generator)

    def __call__(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.jacobian.T + 0.3


def optimum(energies: Floats, weight: float) -> Floats:
    """σ_i = .01·√(λ·ā/(2a_i))."""
    return np.asarray(0.01 * np.sqrt(weight * energies.mean() / (2 * energies)))


def walked(energies: Floats, weight: float, stop: float) -> Floats:
    """H after the published steps, from the exact energies."""
    power, factor = 1e-4 * energies.sum(), weight
    sigma = np.full_like(energies, 0.01)
    passed: list[Floats] = []
    levels: list[float] = []
    for step in range(80):
        sigma = np.clip(sigma, 0.001, 1)
        passed.append(sigma)
        levels.append(float(np.log(sigma).mean()) + CONSTANT)
        sigma = sigma - 1e-4 * (2 * energies * sigma / power - factor / energies.size / sigma)
        if step == 59:
            if max(levels) > stop:
                break
            factor *= 1.5
    return np.log(passed[int(np.abs(np.array(levels) - stop).argmin())]) + CONSTANT


def correlation(one: Tensor | Floats, other: Tensor | Floats) -> float:
    return float(np.corrcoef(np.asarray(one).ravel(), np.asarray(other).ravel())[0, 1])
