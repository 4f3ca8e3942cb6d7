"""``dkd``: decoupled KL: the true class against all others, and the others among themselves."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from stillroom.losses.base import Citation, Loss, LossConfig, LossInputs, Requires, Temperature
from stillroom.losses.numerics import batch_mean, check_labels, check_pair, check_temperature, other_classes


class DKDConfig(LossConfig):
    """Decoupled knowledge distillation."""

    name: Literal["dkd"] = "dkd"
    alpha: float = Field(1.0, ge=0, description="Factor of the divergence over true class and all others.")
    beta: float = Field(8.0, ge=0, description="Factor of the divergence among the other classes.")
    temperature: Temperature = 4.0


def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """Decoupled KL: its two parts with factors of their own, as the teacher's confidence suppresses the second.

    Formula: ``τ²·(α·KL over (p_y, 1 − p_y) + β·KL over softmax of the classes other than y)``, all softened by τ; mean
    over the batch. With α = 1 and β = 1 − p_y of each sample it is ``kl``.

    Args:
        student_logits: z_s, [B, K].
        teacher_logits: z_t, [B, K]; detached.
        labels: y, int64 [B].
        alpha: α.
        beta: β.
        temperature: τ > 0.

    Returns:
        Scalar, in nats × τ².

    Raises:
        ValueError: the shapes differ, or τ is not above 0.

    Paper: Zhao et al., Decoupled Knowledge Distillation, arXiv 2203.08679.

    >>> import torch
    >>> z = torch.tensor([[1.0, 2.0, 4.0]])
    >>> dkd(z, z, torch.tensor([2])).item()
    0.0
    """
    check_temperature(temperature)
    student, teacher = check_pair(student_logits, teacher_logits)
    check_labels(student_logits, labels)
    student, teacher = student / temperature, teacher / temperature
    other_student, other_teacher = other_classes(student, labels), other_classes(teacher, labels)
    column = labels[:, None]
    binary = torch.zeros(len(student), dtype=student.dtype, device=student.device)
    for of_student, of_teacher in (
        (student.gather(1, column).squeeze(1), teacher.gather(1, column).squeeze(1)),
        (other_student.logsumexp(1), other_teacher.logsumexp(1)),
    ):
        log_q, log_p = of_student - student.logsumexp(1), of_teacher - teacher.logsumexp(1)
        binary = binary + log_p.exp() * (log_p - log_q)
    log_q, log_p = F.log_softmax(other_student, dim=1), F.log_softmax(other_teacher, dim=1)
    others = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
    return temperature**2 * batch_mean(alpha * binary + beta * others)


class DKD(Loss[DKDConfig]):
    """Decoupled knowledge distillation; see :func:`dkd`."""

    citation = Citation("Decoupled Knowledge Distillation", "2203.08679", "zhao2022decoupled")
    family = "logits"
    requires = Requires(teacher=True, labels=True)

    def forward(self, inputs: LossInputs) -> Tensor:
        options = self.config
        return dkd(
            inputs.student.logits,
            inputs.teacher_logits,
            inputs.labels,
            alpha=options.alpha,
            beta=options.beta,
            temperature=options.temperature,
        )
