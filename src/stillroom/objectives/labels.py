"""Objectives that read the labels alone."""

from __future__ import annotations

from torch import Tensor

from stillroom.objectives import functional
from stillroom.objectives.base import Lesson, Objective, Paper, Reads
from stillroom.objectives.config import CrossEntropyConfig, LabelSmoothingConfig


class CrossEntropy(Objective[CrossEntropyConfig]):
    """Cross-entropy with the true labels; see :func:`functional.cross_entropy`."""

    reads = Reads(labels=True)

    def forward(self, lesson: Lesson) -> Tensor:
        """The loss of one batch."""
        return functional.cross_entropy(lesson.student.logits, lesson.labels)


class LabelSmoothing(Objective[LabelSmoothingConfig]):
    """Cross-entropy with smoothed labels; see :func:`functional.label_smoothing`."""

    paper = Paper("Rethinking the Inception Architecture for Computer Vision", "1512.00567", "szegedy2016rethinking")
    reads = Reads(labels=True)

    def forward(self, lesson: Lesson) -> Tensor:
        """The loss of one batch."""
        return functional.label_smoothing(lesson.student.logits, lesson.labels, smoothing=self.config.smoothing)
