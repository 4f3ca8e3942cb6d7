"""``wsld``: KL weighted sample by sample, least where the student has learned the label better than the teacher."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stillroom.losses.base import Citation, Loss, LossConfig, LossInputs, Requires, Temperature
from stillroom.losses.numerics import batch_mean, check_labels, check_pair, check_temperature


class WSLDConfig(LossConfig):
    """Weighted soft labels."""

    name: Literal["wsld"] = "wsld"
    temperature: Temperature = 2.0


def wsld(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Weighted soft labels: the teacher's answer counts more, the worse the student is on the label than the teacher.

    Formula: ``τ²·mean_b w·KL(p‖q)``, w = 1 − exp(−CE_s/(CE_t + 10⁻⁷)), CE the cross-entropy of each model with the
    label at τ = 1; w is detached. The published code has the soft cross-entropy in place of KL: the same gradient.

    Args:
        student_logits: z_s, [B, K].
        teacher_logits: z_t, [B, K]; detached.
        labels: int64 [B].
        temperature: τ > 0.

    Returns:
        Scalar, in nats × τ².

    Raises:
        ValueError: the shapes differ, or τ is not above 0.

    Paper: Zhou et al., Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective,
    arXiv 2102.00650.

    >>> z = torch.tensor([[1.0, 2.0, 4.0]])
    >>> wsld(z, z, torch.tensor([2])).item()
    0.0
    """
    check_temperature(temperature)
    student, teacher = check_pair(student_logits, teacher_logits)
    check_labels(student_logits, labels)
    with torch.no_grad():
        of_student, of_teacher = (F.cross_entropy(z, labels, reduction="none") for z in (student, teacher))
        weight = 1 - torch.exp(-of_student / (of_teacher + 1e-7))
    log_q, log_p = F.log_softmax(student / temperature, dim=1), F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * batch_mean(weight * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1))


class WSLD(Loss[WSLDConfig]):
    """Weighted soft labels; see :func:`wsld`."""

    citation = Citation(
        "Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective",
        "2102.00650",
        "zhou2021rethinking",
    )
    family = "logits"
    requires = Requires(teacher=True, labels=True)

    def forward(self, inputs: LossInputs) -> Tensor:
        return wsld(inputs.student.logits, inputs.teacher_logits, inputs.labels, temperature=self.config.temperature)
