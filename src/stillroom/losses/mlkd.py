"""``mlkd``: multi-level logit distillation: of samples, between samples, between classes, at several temperatures."""

from __future__ import annotations

from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from stillroom.losses.base import Citation, Loss, LossConfig, LossInputs, Requires, Temperature
from stillroom.losses.kl import kl
from stillroom.losses.numerics import check_pair

_TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)


class MLKDConfig(LossConfig):
    """Multi-level logit distillation."""

    name: Literal["mlkd"] = "mlkd"
    temperatures: Annotated[tuple[Temperature, ...], Field(min_length=1)] = Field(
        _TEMPERATURES, description="Temperatures τ at which the answers are compared."
    )


def mlkd(student_logits: Tensor, teacher_logits: Tensor, *, temperatures: tuple[float, ...] = _TEMPERATURES) -> Tensor:
    """Multi-level logit distillation: answers, how samples resemble each other, and how classes do.

    Formula: ``mean_τ [τ²·KL(p‖q) + ‖QQᵀ − PPᵀ‖²/B + ‖QᵀQ − PᵀP‖²/K]``, P and Q the softened answers [B, K]. The paper's
    two augmentations of an image are not part of it: each view is a sample of its own.

    Args:
        student_logits: z_s, [B, K].
        teacher_logits: z_t, [B, K]; detached.
        temperatures: τ > 0, one or more.

    Returns:
        Scalar.

    Raises:
        ValueError: the shapes differ, or a τ is not above 0.

    Paper: Jin et al., Multi-Level Logit Distillation, CVPR 2023.

    >>> import torch
    >>> z = torch.tensor([[1.0, 2.0, 4.0], [3.0, 0.0, 1.0]])
    >>> mlkd(z, z).item()
    0.0
    """
    student, teacher = check_pair(student_logits, teacher_logits)
    total = student.new_zeros(())
    for temperature in temperatures:
        total = total + kl(student, teacher, temperature=temperature)
        q, p = F.softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1)
        total = total + (q @ q.T - p @ p.T).square().sum() / max(len(q), 1)
        total = total + (q.T @ q - p.T @ p).square().sum() / q.shape[1]
    return total / len(temperatures)


class MLKD(Loss[MLKDConfig]):
    """Multi-level logit distillation; see :func:`mlkd`."""

    other_names = ("mlld", "multi_level_logits")
    citation = Citation("Multi-Level Logit Distillation", "", "jin2023multilevel", "CVPR 2023")
    family = "logits"
    requires = Requires(teacher=True)
    per_sample = False

    def forward(self, inputs: LossInputs) -> Tensor:
        return mlkd(inputs.student.logits, inputs.teacher_logits, temperatures=self.config.temperatures)
