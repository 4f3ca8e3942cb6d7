"""Losses that read the labels alone."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stillroom.losses.functional._common import batch_mean, check_labels


def cross_entropy(student_logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the student's answer with the true labels.

    Formula: ``mean_b −log q_y``, q = softmax(z_s).

    Args:
        student_logits: z_s, [B, K].
        labels: y, int64 [B].

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: the shapes do not fit.

    >>> import torch
    >>> cross_entropy(torch.zeros(3, 4), torch.tensor([0, 1, 2])).item() - torch.tensor(4.0).log().item()
    0.0
    """
    return label_smoothing(student_logits, labels, smoothing=0.0)


def label_smoothing(student_logits: Tensor, labels: Tensor, *, smoothing: float = 0.1) -> Tensor:
    """Cross-entropy with labels mixed with the uniform distribution: the universe knowledge of a teacher.

    Formula: ``mean_b [(1 − s)·(−log q_y) + s·(1/K) Σ_k −log q_k]``, q = softmax(z_s).

    Args:
        student_logits: z_s, [B, K].
        labels: y, int64 [B].
        smoothing: s in [0, 1], the share spread over all classes, the true one included.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: the shapes do not fit, or s lies outside [0, 1].

    Paper: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, arXiv 1512.00567.

    >>> import torch
    >>> logits, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    >>> round(label_smoothing(logits, labels, smoothing=0.1).item(), 4)   # log(1 + e^-2) + 0.1
    0.2269
    """
    logits = check_labels(student_logits, labels)
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing: got {smoothing!r}; expected a number in [0, 1]")
    return batch_mean(F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing))
