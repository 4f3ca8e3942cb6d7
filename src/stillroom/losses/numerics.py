"""Numerics that losses share: shape checks, half precision widened to float32, means that keep the memory layout."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """Half-precision tensors as float32, others as they are: a loss is a small difference of large numbers."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def check_pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of one shape [B, K], widened; the teacher's detached."""
    if student.dim() != 2 or student.shape != teacher.shape:
        raise ValueError(
            f"logits: got student {tuple(student.shape)} and teacher {tuple(teacher.shape)}; "
            "expected the same [batch, classes] for both"
        )
    return widen(student), widen(teacher).detach()


def check_features(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Features of one shape [B, …], widened; the teacher's detached, and both in one memory layout."""
    if student.dim() < 2 or student.shape != teacher.shape:
        raise ValueError(
            f"features: got student {tuple(student.shape)} and teacher {tuple(teacher.shape)}; "
            "expected the same [batch, …] for both"
        )
    return widen(student), widen(match_layout(student, teacher.detach()))


def match_layout(like: Tensor, x: Tensor) -> Tensor:
    """A tensor in another's memory layout: what a cache gives may have another than what a model gives.

    An operation on two layouts takes twenty times as long as on one.
    """
    if like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last):
        return x.contiguous(memory_format=torch.channels_last)
    return x


def check_labels(student: Tensor, labels: Tensor) -> Tensor:
    """Logits [B, K], widened, that fit labels [B]."""
    if student.dim() != 2 or labels.shape != student.shape[:1]:
        raise ValueError(f"labels: got shape {tuple(labels.shape)} for logits {tuple(student.shape)}; expected [batch]")
    return widen(student)


def mean_of_each(x: Tensor) -> Tensor:
    """Mean over each sample's entries, [B, …] → [B]; not through ``flatten``, which would copy a channels-last map.

    >>> mean_of_each(torch.tensor([[[1.0, 3.0]], [[5.0, 5.0]]])).tolist()
    [2.0, 5.0]
    """
    # Not by ``mean``, whose gradient is written out in another memory layout than the map's: what it then meets takes
    # many times as long, a fifth of a whole step with ``feature_mse``. A sum's gradient takes no memory.
    return x.sum(tuple(range(1, x.dim()))) / math.prod(x.shape[1:])


def batch_mean(per_sample: Tensor) -> Tensor:
    """Mean of [B] values; 0 with zero gradient for an empty batch, where a mean would be NaN."""
    return per_sample.sum() / max(per_sample.shape[0], 1)


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that does not soften."""
    if not temperature > 0:
        raise ValueError(f"temperature: got {temperature!r}; expected a number above 0")


def other_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits of the classes other than the true one, [B, K] → [B, K − 1].

    >>> other_classes(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1])).tolist()
    [[1.0, 3.0]]
    """
    other = torch.arange(logits.shape[1], device=logits.device) != labels[:, None]
    return logits[other].view(len(logits), logits.shape[1] - 1)


def check_batch(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Features [B, …] of as many images, of any width, widened; the teacher's detached."""
    if student.dim() < 2 or teacher.dim() < 2 or len(student) != len(teacher):
        raise ValueError(
            f"features: got student {tuple(student.shape)} and teacher {tuple(teacher.shape)}; "
            "expected [batch, …] of the same images"
        )
    return widen(student), widen(teacher).detach()


def check_maps(
    student: Sequence[Tensor], teacher: Sequence[Tensor], *, same_channels: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each stage both maps [B, C, H, W] on one grid, widened, the teacher's detached; the larger is pooled.

    Args:
        student: a map of each stage.
        teacher: the like.
        same_channels: whether they must have as many channels.
    """
    if len(student) != len(teacher) or not len(student):
        raise ValueError(
            f"features: got {len(student)} and {len(teacher)} stages; expected as many of both, at least 1"
        )
    for s, t in zip(student, teacher, strict=True):
        if s.dim() != 4 or t.dim() != 4 or len(s) != len(t) or (same_channels and s.shape[1] != t.shape[1]):
            channels = " with as many channels" if same_channels else ""
            raise ValueError(
                f"features: got student {tuple(s.shape)} and teacher {tuple(t.shape)}; "
                f"expected [batch, channels, height, width] of the same images{channels}"
            )
        grid = (min(s.shape[2], t.shape[2]), min(s.shape[3], t.shape[3]))
        yield pooled_to(widen(s), grid), pooled_to(widen(t).detach(), grid)


def pooled_to(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """A map [B, C, H, W] average-pooled to a grid that is no larger."""
    return x if x.shape[2:] == grid else F.adaptive_avg_pool2d(x, grid)
