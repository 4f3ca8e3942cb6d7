"""``logit_fisher``: second order of the KL divergence in the logits."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from stillroom.losses.base import Citation, Loss, LossConfig, LossInputs, Requires, Temperature
from stillroom.losses.numerics import batch_mean, check_pair, check_temperature


class LogitFisherConfig(LossConfig):
    """Second order of the KL divergence in the logits."""

    name: Literal["logit_fisher"] = "logit_fisher"
    temperature: Temperature = 1.0
    diagonal: bool = Field(False, description="Keep only the Fisher matrix's diagonal.")


def logit_fisher(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, diagonal: bool = False
) -> Tensor:
    """Second order of the KL divergence in the logits: the gap weighed by the teacher's Fisher matrix.

    Formula: ``½ Δᵀ F Δ = ½ Var_p(Δ)``, F = diag(p) − p pᵀ, p = softmax(z_t/τ), so that ``kl`` at the same τ is this
    plus terms of order |Δ|³; diagonal: ``½ Σ_k p_k (1 − p_k) (Δ_k − mean_j Δ_j)²``, the plain mean.

    Args:
        student_logits: z_s, [B, K].
        teacher_logits: z_t, [B, K]; detached.
        temperature: τ > 0 of p; the scale is that of ``kl`` at this τ.
        diagonal: keep only F's diagonal.

    Returns:
        Scalar, in squared logits, mean over the batch.

    Raises:
        ValueError: the shapes differ, or τ is not above 0.

    Paper: Hsu et al., A Closer Look at Knowledge Distillation with Features, Logits, and Gradients, arXiv 2203.10163.

    >>> import torch
    >>> logit_fisher(torch.tensor([[1.0, -1.0]]), torch.zeros(1, 2)).item()   # Var over two even classes = 1
    0.5
    >>> logit_fisher(torch.tensor([[1.0, -1.0]]), torch.zeros(1, 2), diagonal=True).item()
    0.25
    """
    check_temperature(temperature)
    student, teacher = check_pair(student_logits, teacher_logits)
    gap = student - teacher
    p = F.softmax(teacher / temperature, dim=1)
    if diagonal:
        centred = gap - gap.mean(1, keepdim=True)
        return batch_mean(0.5 * (p * one_minus(p) * centred.square()).sum(1))
    centred = gap - (p * gap).sum(1, keepdim=True)
    return batch_mean(0.5 * (p * centred.square()).sum(1))


def one_minus(p: Tensor) -> Tensor:
    """1 − p_k as the sum of the other probabilities, exact where one p_k is within rounding of 1.

    Args:
        p: rows that sum to 1, [B, K].

    Returns:
        [B, K]. Only the largest entry of a row can be near 1, so only there is the sum taken.

    >>> import torch
    >>> p = torch.softmax(torch.tensor([[30.0, 0.0]]), 1)
    >>> one_minus(p)[0, 0].item() > 0      # 1 - p is 0 here in float32
    True
    """
    if p.shape[0] == 0:
        return 1 - p
    largest = p.argmax(1, keepdim=True)
    others = p.scatter(1, largest, 0.0).sum(1, keepdim=True)
    return (1 - p).scatter(1, largest, others)


class LogitFisher(Loss[LogitFisherConfig]):
    """Second order of the KL divergence in the logits; see :func:`logit_fisher`."""

    citation = Citation(
        "A Closer Look at Knowledge Distillation with Features, Logits, and Gradients", "2203.10163", "hsu2022closer"
    )
    family = "logits"
    requires = Requires(teacher=True)
    weighings = ("full", "diagonal")

    def forward(self, inputs: LossInputs) -> Tensor:
        return logit_fisher(
            inputs.student.logits,
            inputs.teacher_logits,
            temperature=self.config.temperature,
            diagonal=self.config.diagonal,
        )
