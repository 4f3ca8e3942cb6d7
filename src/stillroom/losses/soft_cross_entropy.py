"""``soft_cross_entropy``: cross-entropy with the teacher's softened answer."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from stillroom.losses.base import Citation, Loss, LossConfig, LossInputs, Requires, Temperature
from stillroom.losses.numerics import batch_mean, check_pair, check_temperature


class SoftCrossEntropyConfig(LossConfig):
    """Cross-entropy with the teacher's softened answer."""

    name: Literal["soft_cross_entropy"] = "soft_cross_entropy"
    temperature: Temperature = 4.0


def soft_cross_entropy(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Cross-entropy with the teacher's softened answer: the gradient of :func:`kl`, and its value plus an entropy.

    Formula: ``−τ²·Σ_k p_k·log q_k``, p = softmax(z_t/τ), q = softmax(z_s/τ); mean over the batch.

    Args:
        student_logits: z_s, [B, K].
        teacher_logits: z_t, [B, K]; detached.
        temperature: τ > 0.

    Returns:
        Scalar, in nats × τ²; at equality the entropy of the teacher's answer, not 0.

    Raises:
        ValueError: the shapes differ, or τ is not above 0.

    Paper: Hinton et al., Distilling the Knowledge in a Neural Network, arXiv 1503.02531.

    >>> import torch
    >>> round(soft_cross_entropy(torch.zeros(1, 2), torch.zeros(1, 2), temperature=1.0).item(), 4)
    0.6931
    """
    check_temperature(temperature)
    student, teacher = check_pair(student_logits, teacher_logits)
    log_q = F.log_softmax(student / temperature, dim=1)
    p = F.softmax(teacher / temperature, dim=1)
    return temperature**2 * batch_mean(-(p * log_q).sum(1))


class SoftCrossEntropy(Loss[SoftCrossEntropyConfig]):
    """Cross-entropy with the teacher's softened answer; see :func:`soft_cross_entropy`."""

    other_names = ("soft_ce",)
    citation = Citation("Distilling the Knowledge in a Neural Network", "1503.02531", "hinton2015distilling")
    family = "logits"
    requires = Requires(teacher=True)

    def forward(self, inputs: LossInputs) -> Tensor:
        return soft_cross_entropy(inputs.student.logits, inputs.teacher_logits, temperature=self.config.temperature)
