"""The logit members of the KL family: the same gap Δ = z_s − z_t, weighed exactly, by the Fisher matrix, or alike."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stillroom.losses.functional._common import batch_mean, check_pair, check_temperature


def kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Kullback-Leibler divergence from the teacher's softened answer to the student's.

    Formula: ``τ²·KL(p‖q)``, p = softmax(z_t/τ), q = softmax(z_s/τ); sum over classes, mean over the batch.

    Args:
        student_logits: z_s, [B, K].
        teacher_logits: z_t, [B, K]; detached.
        temperature: τ > 0.

    Returns:
        Scalar, in nats × τ²; the factor keeps the gradient's size when τ changes.

    Raises:
        ValueError: the shapes differ, or τ is not above 0.

    Paper: Hinton et al., Distilling the Knowledge in a Neural Network, arXiv 1503.02531.

    >>> import torch
    >>> z = torch.tensor([[1.0, 2.0, 3.0]])
    >>> kl(z, z).item()
    0.0
    >>> round(kl(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), temperature=1.0).item(), 4)
    0.1109
    """
    check_temperature(temperature)
    student, teacher = check_pair(student_logits, teacher_logits)
    log_q = F.log_softmax(student / temperature, dim=1)
    log_p = F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * batch_mean(F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1))


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


def logit_fisher(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, diagonal: bool = False
) -> Tensor:
    """Second order of the KL divergence in the logits: the gap weighed by the teacher's Fisher matrix.

    Formula: ``½ Δᵀ F Δ = ½ Var_p(Δ)``, F = diag(p) − p pᵀ, p = softmax(z_t/τ), so that ``kl`` at the same τ is this
    plus terms of order |Δ|³; diagonal: ``½ Σ_k p_k (1 − p_k) (Δ_k − mean_j Δ_j)²``, the plain mean.

    Args:
        student_logits: z_s, [B, K].
        teacher_logits: z_t, [B, K]; detached.
        temperature: τ > 0 of p; the scale is that of ``kl`` at this τ.
        diagonal: keep only F's diagonal.

    Returns:
        Scalar, in squared logits, mean over the batch.

    Raises:
        ValueError: the shapes differ, or τ is not above 0.

    Paper: Hsu et al., A Closer Look at Knowledge Distillation with Features, Logits, and Gradients, arXiv 2203.10163.

    >>> import torch
    >>> logit_fisher(torch.tensor([[1.0, -1.0]]), torch.zeros(1, 2)).item()   # Var over two even classes = 1
    0.5
    >>> logit_fisher(torch.tensor([[1.0, -1.0]]), torch.zeros(1, 2), diagonal=True).item()
    0.25
    """
    check_temperature(temperature)
    student, teacher = check_pair(student_logits, teacher_logits)
    gap = student - teacher
    p = F.softmax(teacher / temperature, dim=1)
    if diagonal:
        centred = gap - gap.mean(1, keepdim=True)
        return batch_mean(0.5 * (p * one_minus(p) * centred.square()).sum(1))
    centred = gap - (p * gap).sum(1, keepdim=True)
    return batch_mean(0.5 * (p * centred.square()).sum(1))


def one_minus(p: Tensor) -> Tensor:
    """1 − p_k as the sum of the other probabilities, exact where one p_k is within rounding of 1.

    Args:
        p: rows that sum to 1, [B, K].

    Returns:
        [B, K]. Only the largest entry of a row can be near 1, so only there is the sum taken.

    >>> import torch
    >>> p = torch.softmax(torch.tensor([[30.0, 0.0]]), 1)
    >>> one_minus(p)[0, 0].item() > 0      # 1 - p is 0 here in float32
    True
    """
    if p.shape[0] == 0:
        return 1 - p
    largest = p.argmax(1, keepdim=True)
    others = p.scatter(1, largest, 0.0).sum(1, keepdim=True)
    return (1 - p).scatter(1, largest, others)
