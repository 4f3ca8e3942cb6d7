"""The gradient members of the KL family: the gap in features, weighed by how the teacher's answer depends on them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stillroom.losses import functional
from stillroom.losses.base import Citation, LossInputs, Requires
from stillroom.losses.config import FeatureFisherConfig, FeatureFullFisherConfig
from stillroom.losses.features import FeatureLoss
from stillroom.losses.functional._common import check_features
from stillroom.losses.setup_context import SetupContext
from stillroom.teachers.fisher import FisherOf

# Up to so many classes, all of them are asked about; of more, so many are drawn.
_ALL_OF, _DRAWN = 16, 4

_CITATION = Citation(
    "A Closer Look at Knowledge Distillation with Features, Logits, and Gradients", "2203.10163", "hsu2022closer"
)


class FeatureFisher(FeatureLoss[FeatureFisherConfig]):
    """The gap in features under the Fisher matrix's diagonal, the mean over taps; :func:`functional.feature_fisher`."""

    citation = _CITATION
    verb = "weighs by the teacher's gradients"

    def read(self, setup_context: SetupContext) -> Requires:
        """The features, and the weights that the teacher alone decides."""
        reads = super().read(setup_context)
        samples = self.config.samples
        if isinstance(samples, str):
            samples = 0 if samples == "all" or setup_context.num_classes <= _ALL_OF else _DRAWN
        fishers = tuple(FisherOf(tap, self.config.temperature, samples) for tap in reads.teacher_features)
        return replace(reads, fishers=fishers, fisher_means=fishers if self.config.scale == "mse" else ())

    def forward(self, inputs: LossInputs) -> Tensor:
        """The loss of one batch."""
        taught, values = inputs.taught, []
        for of, pair in zip(self.requires.fishers, self.features(inputs), strict=True):
            # Of a teacher that depends on none of its features nothing is left to teach.
            scale = taught.fisher_means[of] or None if self.config.scale == "mse" else None
            values.append(functional.feature_fisher(*pair, taught.fisher(of), weight_scale=scale))
        return torch.stack(values).mean()


class FeatureFullFisher(FeatureLoss[FeatureFullFisherConfig]):
    """The gap in features under the whole Fisher matrix, the mean over taps; :func:`functional.feature_full_fisher`.

    The Jacobian is never written down: one product with it carries the gap to the logits, through the teacher's tail.
    """

    citation = _CITATION
    verb = "carries through the teacher, to second order,"

    def read(self, setup_context: SetupContext) -> Requires:
        """The features, and the teacher from there on."""
        reads = super().read(setup_context)
        return replace(reads, tails=reads.teacher_features)

    def forward(self, inputs: LossInputs) -> Tensor:
        """The loss of one batch."""
        taught, values = inputs.taught, []
        p = torch.softmax(taught.logits.detach() / self.config.temperature, 1)
        for tap, (student, teacher) in zip(self.requires.tails, self.features(inputs), strict=True):
            student, teacher = check_features(student, teacher)
            moved = taught.tail(tap).jvp(teacher, student - teacher)
            values.append(functional.half_variance(moved, p))
        return torch.stack(values).mean()
