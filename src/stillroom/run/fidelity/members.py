"""The members of the KL family for each image alone, by the losses' own functions: the same gap, weighed ever more
exactly."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import get_args

import torch
from torch import Tensor

from stillroom.losses import functional
from stillroom.losses.base import Weighing
from stillroom.losses.registry import losses
from stillroom.teachers.tails import TeacherTail

WEIGHINGS: tuple[Weighing, ...] = get_args(Weighing)


def _member(weighing: Weighing, at_logits: bool) -> str:
    """The loss that weighs the gap so, and how where that is not its default."""
    name, kind = next(
        (name, kind)
        for name, kind in losses().items()
        if weighing in kind.weighings and (kind.family == "logits") == at_logits
    )
    return name if weighing == kind.weighings[0] else f"{name} ({weighing})"


# The loss of each weighing: at a tap, and at the logits.
AT_TAP, AT_LOGITS = (tuple(_member(weighing, at_logits) for weighing in WEIGHINGS) for at_logits in (False, True))
# The identity has units of its own.
ON_SCALE_OF_KL: tuple[Weighing, ...] = ("diagonal", "full", "exact")


def at_tap(
    student: Tensor, teacher: Tensor, weight: Tensor, tail: TeacherTail, teacher_logits: Tensor, *, temperature: float
) -> Tensor:
    """What each member says of the gap in features.

    Formula: δh = r(h_s) − h_t; ``mean_j δh_j²``, ``½ Σ_j w_j δh_j²``, ``½ Var_p(J δh)``,
    ``τ²·KL(p‖softmax(tail(h_t + δh)/τ))``.

    Args:
        student: r(h_s), [B, …], in the shape of the teacher's features.
        teacher: h_t, [B, …].
        weight: w = diag(Jᵀ F J) at h_t, of the same shape.
        tail: the teacher from there on.
        teacher_logits: z_t, [B, K].
        temperature: τ of p = softmax(z_t/τ).

    Returns:
        float64 [4, B], in the order of ``WEIGHINGS``.
    """
    p = torch.softmax(teacher_logits.double() / temperature, 1)
    with torch.no_grad():
        moved, through = tail.moved(teacher, student - teacher), tail(student)
    return torch.stack(
        [
            _of_each(functional.feature_mse, student, teacher),
            _of_each(functional.feature_fisher, student, teacher, weight),
            _of_each(functional.half_variance, moved, p),
            _of_each(partial(functional.kl, temperature=temperature), through, teacher_logits),
        ]
    )


def at_logits(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """What each member says of the gap in the logits.

    Args:
        student_logits: z_s, [B, K].
        teacher_logits: z_t, [B, K].
        temperature: τ.

    Returns:
        float64 [4, B], in the order of ``WEIGHINGS``.

    >>> told = at_logits(torch.tensor([[1.0, -1.0]]), torch.zeros(1, 2), temperature=1.0)
    >>> [round(value, 4) for value in told[:, 0].tolist()]
    [1.0, 0.25, 0.5, 0.4338]
    """
    fisher = partial(functional.logit_fisher, temperature=temperature)
    members = (
        functional.logit_mse,
        partial(fisher, diagonal=True),
        fisher,
        partial(functional.kl, temperature=temperature),
    )
    return torch.stack([_of_each(member, student_logits, teacher_logits) for member in members])


def _of_each(member: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """A loss, which is a mean over a batch, of each image as a batch of its own: [B, …] … → [B].

    In float64: near a teacher's answer a divergence is a small difference of large numbers.
    """
    rows = [tensor.detach().double().flatten(1)[:, None] for tensor in tensors]
    with warnings.catch_warnings():
        # Of an operation that has no form for batches; it is done for one image after another, and is a small one.
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        told: Tensor = torch.vmap(member)(*rows)
    return told
