"""``dist``: correlations of the softened answers, along classes and along samples."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from stillroom.losses.base import Citation, Loss, LossConfig, LossInputs, Requires, Temperature
from stillroom.losses.numerics import batch_mean, check_pair, check_temperature


class DISTConfig(LossConfig):
    """Correlations between softened answers."""

    name: Literal["dist"] = "dist"
    beta: float = Field(1.0, ge=0, description="Factor of the correlation over the classes of each sample.")
    gamma: float = Field(1.0, ge=0, description="Factor of the correlation over the samples of each class.")
    temperature: Temperature = 4.0


def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 4.0,
) -> Tensor:
    """How the softened answers correlate, within each sample and within each class.

    Formula: ``τ²·[β·(1 − mean_b r(p_b, q_b)) + γ·(1 − mean_k r(p_·k, q_·k))]``, r Pearson's correlation, p and q the
    softmax at τ. A row or column without variance counts as uncorrelated; of a single sample the second part is 0.

    Args:
        student_logits: z_s, [B, K].
        teacher_logits: z_t, [B, K]; detached.
        beta: β, of the classes.
        gamma: γ, of the samples.
        temperature: τ > 0.

    Returns:
        Scalar, τ² times a number between 0 and 2(β + γ).

    Raises:
        ValueError: the shapes differ, or τ is not above 0.

    Paper: Huang et al., Knowledge Distillation from A Stronger Teacher, arXiv 2205.10536.

    >>> import torch
    >>> z = torch.tensor([[1.0, 2.0, 4.0], [3.0, 0.0, 1.0]])
    >>> abs(round(dist(z, z).item(), 5))
    0.0
    """
    check_temperature(temperature)
    student, teacher = check_pair(student_logits, teacher_logits)
    q, p = F.softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1)
    total = beta * batch_mean(1 - _pearson(q, p))
    if len(q) > 1:
        total = total + gamma * batch_mean(1 - _pearson(q.T, p.T))
    return temperature**2 * total


def _pearson(x: Tensor, y: Tensor) -> Tensor:
    """Correlation of each pair of rows, [n, m] → [n]."""
    return F.cosine_similarity(x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True), dim=1)


class DIST(Loss[DISTConfig]):
    """Correlations between softened answers; see :func:`dist`."""

    citation = Citation("Knowledge Distillation from A Stronger Teacher", "2205.10536", "huang2022knowledge")
    family = "logits"
    requires = Requires(teacher=True)
    per_sample = False

    def forward(self, inputs: LossInputs) -> Tensor:
        options = self.config
        return dist(
            inputs.student.logits,
            inputs.teacher_logits,
            beta=options.beta,
            gamma=options.gamma,
            temperature=options.temperature,
        )
