"""``bce_kl``: Kullback-Leibler divergence of a Bernoulli distribution for each class."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stillroom.losses.base import Citation, Loss, LossConfig, LossInputs, Requires, Temperature
from stillroom.losses.numerics import batch_mean, check_pair, check_temperature


class BCEKLConfig(LossConfig):
    """KL divergence of a Bernoulli distribution for each class: yes or no, without a softmax over classes."""

    name: Literal["bce_kl"] = "bce_kl"
    temperature: Temperature = 1.0


def bce_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence of a Bernoulli distribution for each class, for classes that do not exclude others.

    Formula: ``τ²·Σ_k KL(Bern(p_k)‖Bern(q_k))``, p = σ(z_t/τ), q = σ(z_s/τ); sum over classes, mean over the batch.
    Its gradient is that of the binary cross-entropy with the teacher's probabilities as targets.

    Args:
        student_logits: z_s, [B, K].
        teacher_logits: z_t, [B, K]; detached.
        temperature: τ > 0.

    Returns:
        Scalar, in nats × τ².

    Raises:
        ValueError: the shapes differ, or τ is not above 0.

    Paper: Rebuffi et al., iCaRL: Incremental Classifier and Representation Learning, arXiv 1611.07725.

    >>> import torch
    >>> round(bce_kl(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])).item(), 4)
    0.1109
    """
    check_temperature(temperature)
    student, teacher = check_pair(student_logits, teacher_logits)
    student, teacher = student / temperature, teacher / temperature
    p = torch.sigmoid(teacher)
    # log σ(z) and log(1 − σ(z)) = log σ(−z) are finite for any finite z.
    yes = p * (F.logsigmoid(teacher) - F.logsigmoid(student))
    no = torch.sigmoid(-teacher) * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return temperature**2 * batch_mean((yes + no).sum(1))


class BCEKL(Loss[BCEKLConfig]):
    """KL divergence of a Bernoulli distribution for each class; see :func:`bce_kl`."""

    citation = Citation("iCaRL: Incremental Classifier and Representation Learning", "1611.07725", "rebuffi2017icarl")
    family = "logits"
    requires = Requires(teacher=True)
    tasks = ("single_label", "multi_label")

    def forward(self, inputs: LossInputs) -> Tensor:
        return bce_kl(inputs.student.logits, inputs.teacher_logits, temperature=self.config.temperature)
