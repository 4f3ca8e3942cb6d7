"""``jsd``: Jensen-Shannon divergence between softened answers."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stillroom.losses.base import Citation, Loss, LossConfig, LossInputs, Requires, Temperature
from stillroom.losses.numerics import batch_mean, check_pair, check_temperature


class JSDConfig(LossConfig):
    """Jensen-Shannon divergence between softened answers."""

    name: Literal["jsd"] = "jsd"
    temperature: Temperature = 4.0


def jsd(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Jensen-Shannon divergence: symmetric, and bounded where one answer excludes the other's class.

    Formula: ``τ²·(½·KL(p‖m) + ½·KL(q‖m))``, p = softmax(z_t/τ), q = softmax(z_s/τ), m = (p + q)/2; sum over classes,
    mean over the batch. At most τ²·log 2.

    Args:
        student_logits: z_s, [B, K].
        teacher_logits: z_t, [B, K]; detached.
        temperature: τ > 0.

    Returns:
        Scalar, in nats × τ².

    Raises:
        ValueError: the shapes differ, or τ is not above 0.

    Paper: Wen et al., f-Divergence Minimization for Sequence-Level Knowledge Distillation, arXiv 2307.15190.

    >>> import torch
    >>> z = 200 * torch.eye(2)
    >>> round(jsd(z, z.flip(0), temperature=1.0).item() / math.log(2), 4)
    1.0
    """
    check_temperature(temperature)
    student, teacher = check_pair(student_logits, teacher_logits)
    log_q = F.log_softmax(student / temperature, dim=1)
    log_p = F.log_softmax(teacher / temperature, dim=1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    each = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
    return temperature**2 * batch_mean(0.5 * each.sum(1))


class JSD(Loss[JSDConfig]):
    """Jensen-Shannon divergence between softened answers; see :func:`jsd`."""

    citation = Citation(
        "f-Divergence Minimization for Sequence-Level Knowledge Distillation", "2307.15190", "wen2023fdivergence"
    )
    family = "logits"
    requires = Requires(teacher=True)

    def forward(self, inputs: LossInputs) -> Tensor:
        return jsd(inputs.student.logits, inputs.teacher_logits, temperature=self.config.temperature)
