"""Losses that read the labels alone."""

from __future__ import annotations

from torch import Tensor

from stillroom.losses import functional
from stillroom.losses.base import Citation, Loss, LossInputs, Requires
from stillroom.losses.config import CrossEntropyConfig, LabelSmoothingConfig


class CrossEntropy(Loss[CrossEntropyConfig]):
    """Cross-entropy with the true labels; see :func:`functional.cross_entropy`."""

    requires = Requires(labels=True)

    def forward(self, inputs: LossInputs) -> Tensor:
        """The loss of one batch."""
        return functional.cross_entropy(inputs.student.logits, inputs.labels)


class LabelSmoothing(Loss[LabelSmoothingConfig]):
    """Cross-entropy with smoothed labels; see :func:`functional.label_smoothing`."""

    citation = Citation(
        "Rethinking the Inception Architecture for Computer Vision", "1512.00567", "szegedy2016rethinking"
    )
    requires = Requires(labels=True)

    def forward(self, inputs: LossInputs) -> Tensor:
        """The loss of one batch."""
        return functional.label_smoothing(inputs.student.logits, inputs.labels, smoothing=self.config.smoothing)
