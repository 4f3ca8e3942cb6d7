"""The gradient members of the KL family: the gap in features, weighed by how the teacher's answer depends on them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stillroom.objectives import functional
from stillroom.objectives.base import Lesson, Paper, Reads
from stillroom.objectives.config import FeatureFisherConfig, FeatureFullFisherConfig
from stillroom.objectives.features import FeatureObjective
from stillroom.objectives.functional._common import check_features
from stillroom.objectives.meeting import Meeting
from stillroom.teacher.fisher import FisherOf

# Up to so many classes, all of them are asked about; of more, so many are drawn.
_ALL_OF, _DRAWN = 16, 4

_PAPER = Paper(
    "A Closer Look at Knowledge Distillation with Features, Logits, and Gradients", "2203.10163", "hsu2022closer"
)


class FeatureFisher(FeatureObjective[FeatureFisherConfig]):
    """The gap in features under the Fisher matrix's diagonal, the mean over taps; :func:`functional.feature_fisher`."""

    paper = _PAPER
    verb = "weighs by the teacher's gradients"

    def read(self, meeting: Meeting) -> Reads:
        """The features, and the weights that the teacher alone decides."""
        reads = super().read(meeting)
        samples = self.config.samples
        if isinstance(samples, str):
            samples = 0 if samples == "all" or meeting.num_classes <= _ALL_OF else _DRAWN
        fishers = tuple(FisherOf(tap, self.config.temperature, samples) for tap in reads.teacher_features)
        return replace(reads, fishers=fishers, fisher_means=fishers if self.config.scale == "mse" else ())

    def forward(self, lesson: Lesson) -> Tensor:
        """The loss of one batch."""
        taught, values = lesson.taught, []
        for of, pair in zip(self.reads.fishers, self.features(lesson), strict=True):
            # Of a teacher that depends on none of its features nothing is left to teach.
            scale = taught.fisher_means[of] or None if self.config.scale == "mse" else None
            values.append(functional.feature_fisher(*pair, taught.fisher(of), weight_scale=scale))
        return torch.stack(values).mean()


class FeatureFullFisher(FeatureObjective[FeatureFullFisherConfig]):
    """The gap in features under the whole Fisher matrix, the mean over taps; :func:`functional.feature_full_fisher`.

    The Jacobian is never written down: one product with it carries the gap to the logits, through the teacher's tail.
    """

    paper = _PAPER
    verb = "carries through the teacher, to second order,"

    def read(self, meeting: Meeting) -> Reads:
        """The features, and the teacher from there on."""
        reads = super().read(meeting)
        return replace(reads, tails=reads.teacher_features)

    def forward(self, lesson: Lesson) -> Tensor:
        """The loss of one batch."""
        taught, values = lesson.taught, []
        p = torch.softmax(taught.logits.detach() / self.config.temperature, 1)
        for tap, (student, teacher) in zip(self.reads.tails, self.features(lesson), strict=True):
            student, teacher = check_features(student, teacher)
            moved = taught.tail(tap).moved(teacher, student - teacher)
            values.append(functional.half_variance(moved, p))
        return torch.stack(values).mean()
