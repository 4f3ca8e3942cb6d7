"""``correlation``: whether the student errs in the same way on one image as on the next."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from stillroom.losses.base import Citation, LossInputs
from stillroom.losses.feature_base import FeatureConfig, FeatureLoss
from stillroom.losses.numerics import batch_mean, check_features


class CorrelationConfig(FeatureConfig):
    """Correlation of the gaps of consecutive images."""

    name: Literal["correlation"] = "correlation"


def correlation(student_pooled: Tensor, teacher_pooled: Tensor) -> Tensor:
    """Correlation congruence as it is commonly computed: products of the gaps of consecutive images.

    Formula: ``mean_i Σ_j δ_i,j·δ_{i+1},j``, δ = |s − t|, over the B − 1 consecutive rows; 0 for a single one. It
    depends on the order of the batch.

    Args:
        student_pooled: [B, d].
        teacher_pooled: [B, d]; detached.

    Returns:
        Scalar.

    Raises:
        ValueError: the shapes differ.

    Paper: Peng et al., Correlation Congruence for Knowledge Distillation, arXiv 1904.01802.

    >>> correlation(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.zeros(2, 2)).item()
    3.0
    """
    student, teacher = check_features(student_pooled, teacher_pooled)
    gap = (student - teacher).abs().flatten(1)
    if len(gap) < 2:
        return 0 * gap.sum()
    return batch_mean((gap[:-1] * gap[1:]).sum(1))


class Correlation(FeatureLoss[CorrelationConfig]):
    """Correlation of the gaps of consecutive images, the mean over the pairs of taps; see :func:`correlation`."""

    other_names = ("cc", "cckd")
    citation = Citation("Correlation Congruence for Knowledge Distillation", "1904.01802", "peng2019correlation")
    family = "relations"
    per_sample = False

    def forward(self, inputs: LossInputs) -> Tensor:
        return torch.stack([correlation(*pair) for pair in self.feature_pairs(inputs)]).mean()
