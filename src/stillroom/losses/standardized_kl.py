"""``standardized_kl``: KL between logits that were standardised first."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from stillroom.losses.base import Citation, Loss, LossConfig, LossInputs, Requires, Temperature
from stillroom.losses.kl import kl
from stillroom.losses.numerics import check_pair

_EPSILON = 1e-7


class StandardizedKLConfig(LossConfig):
    """Kullback-Leibler divergence between standardised logits."""

    name: Literal["standardized_kl"] = "standardized_kl"
    temperature: Temperature = 2.0


def standardized_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 2.0) -> Tensor:
    """KL between logits of mean 0 and deviation 1: the student need not have the teacher's range.

    Formula: ``kl(z'_s, z'_t)`` at τ, each row z' = (z − mean(z))/(10⁻⁷ + std(z)), std with K − 1.

    Args:
        student_logits: z_s, [B, K], K above 1.
        teacher_logits: z_t, [B, K]; detached.
        temperature: τ > 0, of the standardised logits.

    Returns:
        Scalar, in nats × τ².

    Raises:
        ValueError: the shapes differ, or τ is not above 0.

    Paper: Sun et al., Logit Standardization in Knowledge Distillation, arXiv 2403.01427.

    >>> import torch
    >>> z = torch.tensor([[1.0, 2.0, 4.0]])
    >>> round(abs(standardized_kl(3 * z + 5, z).item()), 6)
    0.0
    """
    student, teacher = check_pair(student_logits, teacher_logits)
    return kl(_standardized(student), _standardized(teacher), temperature=temperature)


def _standardized(logits: Tensor) -> Tensor:
    centred = logits - logits.mean(1, keepdim=True)
    variance = centred.square().sum(1, keepdim=True) / max(logits.shape[1] - 1, 1)
    # The root of 0 has no gradient.
    deviation = torch.where(variance > 0, torch.where(variance > 0, variance, 1.0).sqrt(), 0.0)
    return centred / (_EPSILON + deviation)


class StandardizedKL(Loss[StandardizedKLConfig]):
    """KL between standardised logits; see :func:`standardized_kl`."""

    other_names = ("logit_standardization",)
    citation = Citation("Logit Standardization in Knowledge Distillation", "2403.01427", "sun2024logit")
    family = "logits"
    requires = Requires(teacher=True)

    def forward(self, inputs: LossInputs) -> Tensor:
        return standardized_kl(inputs.student.logits, inputs.teacher_logits, temperature=self.config.temperature)
