"""``logit_mse``: mean squared error between logits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from stillroom.losses.base import Citation, Loss, LossConfig, LossInputs, Requires
from stillroom.losses.numerics import batch_mean, check_pair
from stillroom.tasks import TASKS


class LogitMSEConfig(LossConfig):
    """Mean squared error between logits."""

    name: Literal["logit_mse"] = "logit_mse"
    centred: bool = Field(
        False,
        description="Take each row's mean out of the difference first, as the high-temperature limit of `kl` does.",
    )


def logit_mse(student_logits: Tensor, teacher_logits: Tensor, *, centred: bool = False) -> Tensor:
    """Mean squared error between logits: the gap weighed by the identity.

    Formula: ``mean_{b,k} Δ_k²``, Δ = z_s − z_t; centred: ``mean_{b,k} (Δ_k − mean_j Δ_j)²``, twice the limit
    of ``kl`` at a high temperature, ``τ²·KL → (1/2K)‖Δ − mean Δ‖²``.

    Args:
        student_logits: z_s, [B, K].
        teacher_logits: z_t, [B, K]; detached.
        centred: take each row's mean out of Δ, so that a constant added to all logits costs nothing.

    Returns:
        Scalar, in squared logits.

    Raises:
        ValueError: the shapes differ.

    Paper: Kim et al., Comparing Kullback-Leibler Divergence and Mean Squared Error Loss in Knowledge Distillation,
    arXiv 2105.08919.

    >>> import torch
    >>> logit_mse(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2)).item()
    5.0
    >>> logit_mse(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2), centred=True).item()
    1.0
    """
    student, teacher = check_pair(student_logits, teacher_logits)
    gap = student - teacher
    if centred:
        gap = gap - gap.mean(1, keepdim=True)
    return batch_mean(gap.square().mean(1))


class LogitMSE(Loss[LogitMSEConfig]):
    """Mean squared error between logits; see :func:`logit_mse`."""

    other_names = ("mse",)
    citation = Citation(
        "Comparing Kullback-Leibler Divergence and Mean Squared Error Loss in Knowledge Distillation",
        "2105.08919",
        "kim2021comparing",
    )
    family = "logits"
    requires = Requires(teacher=True)
    weighings = ("identity",)
    tasks = TASKS

    def forward(self, inputs: LossInputs) -> Tensor:
        return logit_mse(inputs.student.logits, inputs.teacher_logits, centred=self.config.centred)
