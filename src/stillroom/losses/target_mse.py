"""``target_mse``: mean squared error with the true numbers."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from stillroom.losses.base import Loss, LossConfig, LossInputs, Requires
from stillroom.losses.numerics import batch_mean, widen


class TargetMSEConfig(LossConfig):
    """Mean squared error with the true numbers of a regression."""

    name: Literal["target_mse"] = "target_mse"


def target_mse(student_outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error with the true numbers.

    Formula: ``mean_{b,k} (z_k − y_k)²``.

    Args:
        student_outputs: z, [B, K].
        targets: y, [B, K].

    Returns:
        Scalar, in the targets' unit squared.

    Raises:
        ValueError: the shapes differ.

    >>> import torch
    >>> target_mse(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2)).item()
    5.0
    """
    if student_outputs.dim() != 2 or student_outputs.shape != targets.shape:
        got = f"outputs {tuple(student_outputs.shape)} and targets {tuple(targets.shape)}"
        raise ValueError(f"targets: got {got}; expected the same [batch, targets] for both")
    return batch_mean((widen(student_outputs) - targets).square().mean(1))


class TargetMSE(Loss[TargetMSEConfig]):
    """Mean squared error with the true numbers; see :func:`target_mse`."""

    family = "labels"
    requires = Requires(labels=True)
    tasks = ("regression",)

    def forward(self, inputs: LossInputs) -> Tensor:
        return target_mse(inputs.student.logits, inputs.labels)
