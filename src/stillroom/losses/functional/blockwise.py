"""Stepping stones: the student's first blocks and the teacher's last, judged by their logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stillroom.losses.functional._common import check_pair, check_temperature, widen
from stillroom.losses.functional.labels import cross_entropy
from stillroom.losses.functional.logits import kl


def block_logit(
    student_logits: Tensor,
    teacher_logits: Tensor,
    stone_logits: Sequence[Tensor],
    labels: Tensor,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> Tensor:
    """Block-wise logit distillation: KL through the teacher's own tail, the exact member of the family.

    Formula: ``α·T(L_task) + β·T(d(·, Y_T)) + γ·T(d(·, Y_ens))``, where T(L) = L(Y_S) + Σ_i 2^{i−n}·L(Y_{N_i}) over
    the n stones, shallow to deep, L_task is cross-entropy, d = τ²·KL from the second to the first, Y_ens the mean of
    the stones' logits, detached. Without a stone, the last part is left out.

    Args:
        student_logits: Y_S, [B, K].
        teacher_logits: Y_T, [B, K]; detached.
        stone_logits: Y_{N_i}, [B, K] each, shallow to deep: the teacher's last blocks after the student's first i.
        labels: int64 [B].
        temperature: τ > 0 of d.
        alpha: α, of the labels.
        beta: β, of the teacher's answer.
        gamma: γ, of the stones' mean answer.

    Returns:
        Scalar, in nats, mean over the batch.

    Raises:
        ValueError: the shapes differ, or τ is not above 0.

    Paper: Yu et al., Decoupling Dark Knowledge via Block-wise Logit Distillation for Feature-level Alignment,
    arXiv 2411.01547.

    >>> z = torch.zeros(1, 2)
    >>> block_logit(z, z, [z, z], torch.tensor([0]), beta=0, gamma=0).item() / torch.log(torch.tensor(2.0)).item()
    2.5
    """
    check_temperature(temperature)
    check_pair(student_logits, teacher_logits)
    weighed = [(1.0, student_logits)]
    weighed += [(0.5 ** (len(stone_logits) - 1 - place), stone) for place, stone in enumerate(stone_logits)]
    total = student_logits.new_zeros((), dtype=torch.promote_types(student_logits.dtype, torch.float32))
    ensemble = torch.stack([widen(stone.detach()) for stone in stone_logits]).mean(0) if len(stone_logits) else None
    for weight, logits in weighed:
        if alpha:
            total = total + alpha * weight * cross_entropy(logits, labels)
        if beta:
            total = total + beta * weight * kl(logits, teacher_logits, temperature=temperature)
        if gamma and ensemble is not None:
            total = total + gamma * weight * kl(logits, ensemble, temperature=temperature)
    return total
