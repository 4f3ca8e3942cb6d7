"""``label_smoothing``: the true labels mixed with the uniform distribution."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from stillroom.losses.base import Citation, Loss, LossConfig, LossInputs, Requires
from stillroom.losses.numerics import batch_mean, check_labels


class LabelSmoothingConfig(LossConfig):
    """Cross-entropy with labels mixed with the uniform distribution."""

    name: Literal["label_smoothing"] = "label_smoothing"
    smoothing: float = Field(0.1, ge=0, le=1, description="Share of the target spread evenly over all classes.")


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
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing: got {smoothing!r}; expected a number in [0, 1]")
    return batch_mean(smoothed_of_each(student_logits, labels, smoothing))


def smoothed_of_each(student_logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """The same of each sample, [B]."""
    return F.cross_entropy(check_labels(student_logits, labels), labels, reduction="none", label_smoothing=smoothing)


class LabelSmoothing(Loss[LabelSmoothingConfig]):
    """Cross-entropy with smoothed labels; see :func:`label_smoothing`."""

    citation = Citation(
        "Rethinking the Inception Architecture for Computer Vision", "1512.00567", "szegedy2016rethinking"
    )
    family = "labels"
    requires = Requires(labels=True)
    smoothing_option = "smoothing"
    mixes_labels = True

    def forward(self, inputs: LossInputs) -> Tensor:
        smoothing = self.config.smoothing
        return inputs.label_mean(lambda labels: smoothed_of_each(inputs.student.logits, labels, smoothing))
