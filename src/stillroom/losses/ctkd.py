"""``ctkd``: KL whose temperature is learned against the student: curriculum temperature."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from stillroom.losses.base import Citation, Loss, LossConfig, LossInputs, Requires
from stillroom.losses.numerics import batch_mean, check_pair


class CTKDConfig(LossConfig):
    """KL divergence at a learned temperature."""

    name: Literal["ctkd"] = "ctkd"
    lowest: float = Field(1.0, gt=0, description="Lowest temperature.")
    highest: float = Field(21.0, gt=0, description="Highest temperature.")
    strength: float = Field(
        1.0, ge=0, description="How strongly the temperature works against the student, at the end."
    )
    until: float = Field(
        0.05, gt=0, le=1, description="Fraction of the training over which the strength grows from 0, by a cosine."
    )


def ctkd(student_logits: Tensor, teacher_logits: Tensor, temperature: Tensor, *, strength: float = 1.0) -> Tensor:
    """KL at a temperature that is a tensor: its gradient is turned round, so that it learns to make the loss larger.

    Formula: ``τ²·KL(p‖q)``, p = softmax(z_t/τ), q = softmax(z_s/τ); the gradient in τ is multiplied by −strength.

    Args:
        student_logits: z_s, [B, K].
        teacher_logits: z_t, [B, K]; detached.
        temperature: τ > 0, a scalar, or [B] of one for each sample.
        strength: factor of the reversed gradient.

    Returns:
        Scalar, in nats × τ².

    Raises:
        ValueError: the shapes differ.

    Paper: Li et al., Curriculum Temperature for Knowledge Distillation, arXiv 2211.16231.

    >>> tau = torch.tensor(2.0, requires_grad=True)
    >>> ctkd(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), tau).backward()
    >>> straight = torch.tensor(2.0, requires_grad=True)
    >>> ctkd(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), straight, strength=-1.0).backward()
    >>> (tau.grad + straight.grad).item()
    0.0
    """
    student, teacher = check_pair(student_logits, teacher_logits)
    temperature = temperature.to(student.dtype)
    reversed_gradient = temperature.detach() * (1 + strength) - strength * temperature
    tau = reversed_gradient.reshape(-1, 1)
    log_q, log_p = F.log_softmax(student / tau, dim=1), F.log_softmax(teacher / tau, dim=1)
    divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
    return batch_mean(reversed_gradient.reshape(-1).square() * divergence)


class CTKD(Loss[CTKDConfig]):
    """KL at one learned temperature for all samples; see :func:`ctkd`.

    The temperature is lowest + (highest − lowest)·sigmoid(raw), raw begins at 1, and it is trained by the run's
    optimizer with everything else.
    """

    citation = Citation("Curriculum Temperature for Knowledge Distillation", "2211.16231", "li2023curriculum")
    family = "logits"
    requires = Requires(teacher=True)

    def __init__(self, config: CTKDConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.raw_temperature = nn.Parameter(torch.ones(()))

    @property
    def temperature(self) -> Tensor:
        """The temperature now."""
        low, high = self.config.lowest, self.config.highest
        return low + (high - low) * torch.sigmoid(self.raw_temperature)

    def forward(self, inputs: LossInputs) -> Tensor:
        grown = min(inputs.progress / self.config.until, 1.0)
        strength = self.config.strength * 0.5 * (1 - math.cos(math.pi * grown))
        return ctkd(inputs.student.logits, inputs.teacher_logits, self.temperature, strength=strength)
