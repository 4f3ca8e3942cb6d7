"""``ttm``: transformed teacher matching: only the teacher's answer is softened."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from stillroom.losses.base import Citation, Loss, LossConfig, LossInputs, Requires, Temperature
from stillroom.losses.numerics import batch_mean, check_pair, check_temperature


class TTMConfig(LossConfig):
    """Transformed teacher matching."""

    name: Literal["ttm"] = "ttm"
    temperature: Temperature = 4.0


def ttm(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Transformed teacher matching: KL from the softened teacher to the student as it is.

    Formula: ``KL(p‖q)``, p = softmax(z_t/τ), q = softmax(z_s); sum over classes, mean over the
    batch.

    Args:
        student_logits: z_s, [B, K].
        teacher_logits: z_t, [B, K]; detached.
        temperature: τ > 0 of the teacher.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: the shapes differ, or τ is not above 0.

    Paper: Zheng & Yang, Knowledge Distillation Based on Transformed Teacher Matching, arXiv 2402.11148.

    >>> import torch
    >>> z = torch.tensor([[1.0, 2.0, 4.0]])
    >>> abs(round(ttm(z / 4, z).item(), 5))
    0.0
    """
    check_temperature(temperature)
    student, teacher = check_pair(student_logits, teacher_logits)
    log_q = F.log_softmax(student, dim=1)
    log_p = F.log_softmax(teacher / temperature, dim=1)
    divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
    return batch_mean(divergence)


class TTM(Loss[TTMConfig]):
    """Transformed teacher matching; see :func:`ttm`."""

    citation = Citation(
        "Knowledge Distillation Based on Transformed Teacher Matching", "2402.11148", "zheng2024knowledge"
    )
    family = "logits"
    requires = Requires(teacher=True)

    def forward(self, inputs: LossInputs) -> Tensor:
        return ttm(inputs.student.logits, inputs.teacher_logits, temperature=self.config.temperature)
