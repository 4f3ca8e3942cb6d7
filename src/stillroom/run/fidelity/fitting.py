"""The map from a student's features to its teacher's, fitted in closed form: what a connector would learn, at its end.

Connectors are no part of what a run leaves, and most runs have none. The map that fits best is a function of the two
models alone, the same however the student was taught.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Of the mean variance of a student's channels: enough to make the solution unique, too little to shrink what they say.
RIDGE = 1e-3


@dataclass(frozen=True)
class Affine:
    """Rows x [n, a] → x·weight + bias, [n, b]; ``mean`` is the mean y that it was fitted on."""

    weight: Tensor
    bias: Tensor
    mean: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        return rows @ self.weight.to(rows.dtype) + self.bias.to(rows.dtype)


class Moments:
    """All that least squares needs to know of rows (x, y): their number, sums and products, in float64.

    >>> x = torch.tensor([[0.0], [1.0], [2.0]])
    >>> moments = Moments()
    >>> moments.add(x, 3 * x + 1)
    >>> fitted = moments.fitted(ridge=0.0)
    >>> round(fitted.weight.item(), 6), round(fitted.bias.item(), 6)
    (3.0, 1.0)
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        """Rows x [n, a] and y [n, b]."""
        x, y = x.detach().double(), y.detach().double()
        new = [x.sum(0), y.sum(0), x.T @ x, x.T @ y]
        self._sums = [have + more for have, more in zip(self._sums, new, strict=True)] if self._sums else new
        self.count += len(x)

    def fitted(self, ridge: float = RIDGE) -> Affine:
        """The map with the least mean squared error, its weights held small.

        Formula: ``W = (Cov(x) + λI)⁻¹ Cov(x, y)``, λ = ridge · mean variance of x; b = mean(y) − mean(x)·W, so that a
        channel's mean is never held small.

        Args:
            ridge: 0 or more.
        """
        total_x, total_y, products, mixed = self._sums
        x, y = total_x / self.count, total_y / self.count
        covariance = products / self.count - torch.outer(x, x)
        size = covariance.diagonal().mean().clamp_min(0)
        if not size:
            # A student whose channels are all constant says nothing: the teacher's mean is as near as it gets.
            return Affine(torch.zeros_like(mixed), y, y)
        held = covariance + ridge * size * torch.eye(len(x), dtype=x.dtype, device=x.device)
        weight = torch.linalg.solve(held, mixed / self.count - torch.outer(x, y))
        return Affine(weight, y - x @ weight, y)
