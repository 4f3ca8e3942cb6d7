"""``cross_entropy``: the true labels."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from stillroom.losses.base import Loss, LossConfig, LossInputs, Requires
from stillroom.losses.label_smoothing import label_smoothing, smoothed_of_each


class FirstClassConfig(LossConfig):
    """A term on labels whose possible answers may begin at a later class."""

    left_out = ("teacher", "first_class")

    first_class: int | None = Field(
        None,
        ge=1,
        description="The first class that is a possible answer; images of classes before it add nothing. Set by "
        "incremental.labels new, for each task.",
    )


class CrossEntropyConfig(FirstClassConfig):
    """Cross-entropy with the true labels."""

    name: Literal["cross_entropy"] = "cross_entropy"


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


class CrossEntropy(Loss[CrossEntropyConfig]):
    """Cross-entropy with the true labels; see :func:`cross_entropy`."""

    other_names = ("ce",)
    family = "labels"
    requires = Requires(labels=True)
    rescaling_part = "labels"
    mixes_labels = True

    def forward(self, inputs: LossInputs) -> Tensor:
        logits, labels, first = inputs.student.logits, inputs.labels, self.config.first_class
        if first is None:
            return inputs.label_mean(lambda labels: smoothed_of_each(logits, labels, 0.0))
        # −100 is torch's mark of a row without a label.
        return cross_entropy(logits[:, first:], torch.where(labels >= first, labels - first, -100))
