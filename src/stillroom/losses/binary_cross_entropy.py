"""``binary_cross_entropy``: the true labels, yes or no for each class."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stillroom.losses.base import Loss, LossInputs, Requires
from stillroom.losses.cross_entropy import FirstClassConfig
from stillroom.losses.numerics import batch_mean, check_labels, widen


class BinaryCrossEntropyConfig(FirstClassConfig):
    """Binary cross-entropy with the true labels, yes or no for each class."""

    name: Literal["binary_cross_entropy"] = "binary_cross_entropy"


def binary_cross_entropy(student_logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of each class: those of the labels are yes, every other no.

    Formula: ``mean_b Σ_k −log σ(z_k) for k ∈ y, −log(1 − σ(z_k)) for the others``; sum over classes.

    Args:
        student_logits: z_s, [B, K].
        labels: y, int64 [B], one class an image, rows with −100 left out; or of multi-label data, floats [B, K], 1 for
            each class that an image has, 0 for the others.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: the shapes do not fit.

    >>> round(binary_cross_entropy(torch.zeros(3, 4), torch.tensor([0, 1, 2])).item(), 4)   # 4 log 2
    2.7726
    """
    return batch_mean(_of_classes_from(0, student_logits, labels))


def _of_classes_from(first: int, student_logits: Tensor, labels: Tensor) -> Tensor:
    """Of each sample, over the classes from ``first`` on: an image of a class before it is none of them."""
    if labels.dim() == 2:
        if labels.shape != student_logits.shape:
            got = f"logits {tuple(student_logits.shape)} and labels {tuple(labels.shape)}"
            raise ValueError(f"labels: got {got}; expected the same [batch, classes] for both")
        return -F.logsigmoid((2 * labels - 1) * widen(student_logits)).sum(1)
    logits = check_labels(student_logits, labels)
    yes = F.one_hot(labels.clamp_min(0), logits.shape[1])
    per_sample = -F.logsigmoid((2 * yes - 1) * logits)[:, first:].sum(1)
    return torch.where(labels != -100, per_sample, 0)


class BinaryCrossEntropy(Loss[BinaryCrossEntropyConfig]):
    """Binary cross-entropy with the true labels; see :func:`binary_cross_entropy`."""

    other_names = ("bce",)
    family = "labels"
    requires = Requires(labels=True)
    tasks = ("single_label", "multi_label")
    mixes_labels = True

    def forward(self, inputs: LossInputs) -> Tensor:
        first = self.config.first_class or 0
        return inputs.label_mean(lambda labels: _of_classes_from(first, inputs.student.logits, labels))
