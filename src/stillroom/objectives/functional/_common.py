"""What every objective does first and last: check shapes, leave low precision, average over the batch."""

from __future__ import annotations

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """Half-precision tensors as float32, others as they are: a loss is a small difference of large numbers."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def check_pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of one shape [B, K], widened; the teacher's detached, for it is never taught.

    Raises:
        ValueError: the shapes differ or are not [B, K].
    """
    if student.dim() != 2 or student.shape != teacher.shape:
        raise ValueError(
            f"logits: got student {tuple(student.shape)} and teacher {tuple(teacher.shape)}; "
            "expected the same [batch, classes] for both"
        )
    return widen(student), widen(teacher).detach()


def check_labels(student: Tensor, labels: Tensor) -> Tensor:
    """Logits [B, K], widened, that fit labels [B].

    Raises:
        ValueError: the shapes do not fit.
    """
    if student.dim() != 2 or labels.shape != student.shape[:1]:
        raise ValueError(f"labels: got shape {tuple(labels.shape)} for logits {tuple(student.shape)}; expected [batch]")
    return widen(student)


def batch_mean(per_sample: Tensor) -> Tensor:
    """Mean of [B] values; 0 with zero gradient for an empty batch, where a mean would be NaN."""
    return per_sample.sum() / max(per_sample.shape[0], 1)


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that does not soften.

    Raises:
        ValueError: it is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: got {temperature!r}; expected a number above 0")
