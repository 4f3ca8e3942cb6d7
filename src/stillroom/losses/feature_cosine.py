"""``feature_cosine``: cosine distance between features."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stillroom.losses.base import Citation, LossInputs
from stillroom.losses.feature_base import FeatureConfig, FeatureLoss
from stillroom.losses.numerics import batch_mean, check_features


class FeatureCosineConfig(FeatureConfig):
    """Cosine distance between features."""

    name: Literal["feature_cosine"] = "feature_cosine"


def feature_cosine(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Cosine distance between features: their direction, whatever their length.

    Formula: ``mean_b (1 − r(h_s)·h_t/(‖r(h_s)‖·‖h_t‖))``, over all entries of one image's features.

    Args:
        student_feature: r(h_s), [B, …]: the student's features, mapped to the teacher's shape where they differ.
        teacher_feature: h_t, [B, …]; detached.

    Returns:
        Scalar between 0 and 2.

    Raises:
        ValueError: the shapes differ.

    Paper: Sanh et al., DistilBERT, a distilled version of BERT, arXiv 1910.01108.

    >>> feature_cosine(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])).item()
    1.0
    """
    student, teacher = check_features(student_feature, teacher_feature)
    return batch_mean(1 - F.cosine_similarity(student.flatten(1), teacher.flatten(1), dim=1))


class FeatureCosine(FeatureLoss[FeatureCosineConfig]):
    """Cosine distance between features, the mean over the pairs of taps; see :func:`feature_cosine`."""

    other_names = ("cosine",)
    citation = Citation("DistilBERT, a distilled version of BERT", "1910.01108", "sanh2019distilbert")

    def forward(self, inputs: LossInputs) -> Tensor:
        return torch.stack([feature_cosine(*pair) for pair in self.feature_pairs(inputs)]).mean()
