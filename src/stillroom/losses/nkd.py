"""``nkd``: normalised KD: the true class by the teacher's confidence, and the others as a distribution of their own."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from stillroom.losses.base import Citation, Loss, LossConfig, LossInputs, Requires, Temperature
from stillroom.losses.numerics import batch_mean, check_labels, check_pair, check_temperature, other_classes


class NKDConfig(LossConfig):
    """Normalised knowledge distillation."""

    name: Literal["nkd"] = "nkd"
    gamma: float = Field(1.5, ge=0, description="Factor of the classes other than the true one.")
    temperature: Temperature = 1.0


def nkd(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, gamma: float = 1.5, temperature: float = 1.0
) -> Tensor:
    """Normalised KD: cross-entropy of the true class, weighed by the teacher's confidence, and of the others.

    Formula: ``−p_y·log q_y − γ·τ²·Σ_{k≠y} p̂_k·log q̂_k``, p and q unsoftened, p̂ and q̂ the softmax at τ of the classes
    other than y; mean over the batch.

    Args:
        student_logits: z_s, [B, K].
        teacher_logits: z_t, [B, K]; detached.
        labels: y, int64 [B].
        gamma: γ.
        temperature: τ > 0 of the other classes.

    Returns:
        Scalar, in nats; not 0 at equality, as it is a cross-entropy.

    Raises:
        ValueError: the shapes differ, or τ is not above 0.

    Paper: Yang et al., From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized
    Loss and Customized Soft Labels, arXiv 2303.13005.

    >>> import torch
    >>> round(nkd(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0])).item(), 4)
    0.3466
    """
    check_temperature(temperature)
    student, teacher = check_pair(student_logits, teacher_logits)
    check_labels(student_logits, labels)
    column = labels[:, None]
    confidence = F.softmax(teacher, dim=1).gather(1, column).squeeze(1)
    true = -confidence * F.log_softmax(student, dim=1).gather(1, column).squeeze(1)
    p = F.softmax(other_classes(teacher, labels) / temperature, dim=1)
    log_q = F.log_softmax(other_classes(student, labels) / temperature, dim=1)
    return batch_mean(true - gamma * temperature**2 * (p * log_q).sum(1))


class NKD(Loss[NKDConfig]):
    """Normalised knowledge distillation; see :func:`nkd`."""

    citation = Citation(
        "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and "
        "Customized Soft Labels",
        "2303.13005",
        "yang2023knowledge",
    )
    family = "logits"
    requires = Requires(teacher=True, labels=True)

    def forward(self, inputs: LossInputs) -> Tensor:
        options = self.config
        return nkd(
            inputs.student.logits,
            inputs.teacher_logits,
            inputs.labels,
            gamma=options.gamma,
            temperature=options.temperature,
        )
