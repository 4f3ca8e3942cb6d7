"""``feature_mse``: mean squared error between features."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from stillroom.losses.base import Citation, LossInputs
from stillroom.losses.feature_base import FeatureConfig, FeatureLoss
from stillroom.losses.numerics import batch_mean, check_features, mean_of_each


class FeatureMSEConfig(FeatureConfig):
    """Mean squared error between features."""

    name: Literal["feature_mse"] = "feature_mse"


def feature_mse(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Mean squared error between features: the gap weighed by the identity.

    Formula: ``mean_{b,j} (r(h_s) − h_t)_j²``, j over all entries of one image's features.

    Args:
        student_feature: r(h_s), [B, …]: the student's features, mapped to the teacher's shape where they differ.
        teacher_feature: h_t, [B, …]; detached.

    Returns:
        Scalar, in squared units of the teacher's features.

    Raises:
        ValueError: the shapes differ.

    Paper: Romero et al., FitNets: Hints for Thin Deep Nets, arXiv 1412.6550; as a member of the family, Hsu et al.,
    A Closer Look at Knowledge Distillation with Features, Logits, and Gradients, arXiv 2203.10163.

    >>> feature_mse(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2)).item()
    5.0
    """
    student, teacher = check_features(student_feature, teacher_feature)
    return batch_mean(mean_of_each((student - teacher).square()))


class FeatureMSE(FeatureLoss[FeatureMSEConfig]):
    """Mean squared error between features, the mean over the pairs of taps; see :func:`feature_mse`."""

    other_names = ("fitnet", "fitnets", "hint")
    citation = Citation("FitNets: Hints for Thin Deep Nets", "1412.6550", "romero2015fitnets")
    weighings = ("identity",)
    leaves_padding_out = True

    def forward(self, inputs: LossInputs) -> Tensor:
        return torch.stack([feature_mse(*pair) for pair in self.feature_pairs(inputs)]).mean()
