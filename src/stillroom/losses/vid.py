"""``vid``: variational information distillation: the teacher's features as seen from the student's, with a variance."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillroom.losses.base import Citation, LossInputs
from stillroom.losses.connectors import channels_of
from stillroom.losses.feature_base import FeatureConfig, FeatureLoss
from stillroom.losses.numerics import batch_mean, check_features, mean_of_each
from stillroom.losses.setup_context import SetupContext

# The smallest variance, and the first one.
_SMALLEST, _FIRST = 1e-5, 5.0


class VIDConfig(FeatureConfig):
    """Variational information distillation."""

    name: Literal["vid"] = "vid"


def vid(student_feature: Tensor, teacher_feature: Tensor, variance: Tensor) -> Tensor:
    """Variational information distillation: negative log-likelihood of the teacher's features, a Gaussian a channel.

    Formula: ``mean_{b,j} ½[(h_t − r(h_s))²/v + log v]``, j over all entries of one image's features.

    Args:
        student_feature: r(h_s), [B, …]: the mean.
        teacher_feature: h_t, [B, …]; detached.
        variance: v above 0, of a shape that fits one image's features.

    Returns:
        Scalar, in nats an entry, without the constant ½·log 2π; it may be below 0.

    Raises:
        ValueError: the shapes differ.

    Paper: Ahn et al., Variational Information Distillation for Knowledge Transfer, arXiv 1904.05835.

    >>> vid(torch.zeros(1, 2), torch.ones(1, 2), torch.ones(2)).item()
    0.5
    """
    student, teacher = check_features(student_feature, teacher_feature)
    variance = variance.to(student.dtype)
    return batch_mean(mean_of_each(0.5 * ((teacher - student).square() / variance + variance.log())))


class VID(FeatureLoss[VIDConfig]):
    """Variational information distillation, the mean over the pairs of taps; see :func:`vid`.

    A channel's variance is softplus(raw) + 10⁻⁵; it begins at 5.
    """

    citation = Citation(
        "Variational Information Distillation for Knowledge Transfer", "1904.05835", "ahn2019variational"
    )

    def setup(self, setup_context: SetupContext) -> None:
        """Choose the pairs, make their connectors and their channels' variances."""
        super().setup(setup_context)
        first = math.log(math.expm1(_FIRST - _SMALLEST))
        shapes = []
        for tap, _ in self.pairs:
            # Vectors may have several axes, all of them channels.
            channels_first = tap.kind == "map" and not tap.channels_last
            ones = (1,) * (len(tap.shape) - 1)
            one_axis = (channels_of(tap), *ones) if channels_first else (*ones, channels_of(tap))
            shapes.append(tap.shape if tap.kind == "vector" else one_axis)
        self.raw_variances = nn.ParameterList([torch.full(shape, first) for shape in shapes])

    def forward(self, inputs: LossInputs) -> Tensor:
        variances = [F.softplus(raw) + _SMALLEST for raw in self.raw_variances]
        pairs = zip(self.feature_pairs(inputs), variances, strict=True)
        return torch.stack([vid(*pair, variance) for pair, variance in pairs]).mean()
