"""``reverse_kl``: Kullback-Leibler divergence from the student's softened answer to the teacher's."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from stillroom.losses.base import Citation, Loss, LossConfig, LossInputs, Requires, Temperature
from stillroom.losses.numerics import batch_mean, check_pair, check_temperature


class ReverseKLConfig(LossConfig):
    """Kullback-Leibler divergence of the student's softened answer from the teacher's."""

    name: Literal["reverse_kl"] = "reverse_kl"
    temperature: Temperature = 4.0


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Kullback-Leibler divergence in the other direction: the student is to have no mode that the teacher lacks.

    Formula: ``τ²·KL(q‖p)``, p = softmax(z_t/τ), q = softmax(z_s/τ); sum over classes, mean over the batch.

    Args:
        student_logits: z_s, [B, K].
        teacher_logits: z_t, [B, K]; detached.
        temperature: τ > 0.

    Returns:
        Scalar, in nats × τ².

    Raises:
        ValueError: the shapes differ, or τ is not above 0.

    Paper: Gu et al., MiniLLM: Knowledge Distillation of Large Language Models, arXiv 2306.08543.

    >>> import torch
    >>> round(reverse_kl(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), temperature=1.0).item(), 4)
    0.1201
    """
    check_temperature(temperature)
    student, teacher = check_pair(student_logits, teacher_logits)
    log_q = F.log_softmax(student / temperature, dim=1)
    log_p = F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * batch_mean((log_q.exp() * (log_q - log_p)).sum(1))


class ReverseKL(Loss[ReverseKLConfig]):
    """KL divergence from the student's softened answer to the teacher's; see :func:`reverse_kl`."""

    other_names = ("rkl",)
    citation = Citation("MiniLLM: Knowledge Distillation of Large Language Models", "2306.08543", "gu2024minillm")
    family = "logits"
    requires = Requires(teacher=True)

    def forward(self, inputs: LossInputs) -> Tensor:
        return reverse_kl(inputs.student.logits, inputs.teacher_logits, temperature=self.config.temperature)
