"""``similarity_preserving``: which images of a batch resemble each other."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stillroom.losses.base import Citation, LossInputs
from stillroom.losses.feature_base import FeatureLoss, PlainFeatureConfig
from stillroom.losses.numerics import check_batch


class SimilarityPreservingConfig(PlainFeatureConfig):
    """Similarities between the images of a batch."""

    name: Literal["similarity_preserving"] = "similarity_preserving"


def similarity_preserving(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Similarities between the images of a batch, of both models.

    Formula: ``‖G_s − G_t‖²/B²``, G = HHᵀ of the flattened features, each row of length 1.

    Args:
        student_feature: [B, …], of any width.
        teacher_feature: [B, …]; detached.

    Returns:
        Scalar.

    Raises:
        ValueError: the numbers of images differ.

    Paper: Tung & Mori, Similarity-Preserving Knowledge Distillation, arXiv 1907.09682.

    >>> x = torch.rand(4, 6)
    >>> similarity_preserving(x, 2 * x).item() < 1e-12
    True
    """
    student, teacher = check_batch(student_feature, teacher_feature)
    s, t = (F.normalize(x @ x.T, dim=1) for x in (student.flatten(1), teacher.flatten(1)))
    return (s - t).square().sum() / max(len(s), 1) ** 2


class SimilarityPreserving(FeatureLoss[SimilarityPreservingConfig]):
    """Similarities between the images of a batch, the mean over pairs of taps; see :func:`similarity_preserving`."""

    other_names = ("sp", "spkd", "similarity")
    citation = Citation("Similarity-Preserving Knowledge Distillation", "1907.09682", "tung2019similarity")
    family = "relations"
    per_sample = False

    def forward(self, inputs: LossInputs) -> Tensor:
        return torch.stack([similarity_preserving(*pair) for pair in self.feature_pairs(inputs)]).mean()
