"""``probabilistic``: how probable each image of a batch is as a neighbour of another."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from stillroom.losses.base import Citation, LossInputs
from stillroom.losses.feature_base import PlainFeatureConfig, PooledLoss
from stillroom.losses.numerics import check_batch

_EPSILON = 1e-7


class ProbabilisticConfig(PlainFeatureConfig):
    """Probabilities of neighbours in a batch."""

    name: Literal["probabilistic"] = "probabilistic"


def probabilistic(student_pooled: Tensor, teacher_pooled: Tensor) -> Tensor:
    """Probabilistic knowledge transfer: distributions over each image's neighbours, by cosine similarity.

    Formula: ``mean_{ij} t·log((t + 10⁻⁷)/(s + 10⁻⁷))``, s and t = (cos + 1)/2 between images i and j, divided by the
    sum of its row.

    Args:
        student_pooled: [B, d], of any width.
        teacher_pooled: [B, d]; detached.

    Returns:
        Scalar.

    Raises:
        ValueError: the numbers of images differ.

    Paper: Passalis & Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer, arXiv 1803.10837.

    >>> x = torch.rand(4, 6)
    >>> abs(probabilistic(x, 2 * x).item()) < 1e-6
    True
    """
    student, teacher = check_batch(student_pooled, teacher_pooled)
    s, t = _neighbours(student), _neighbours(teacher)
    return (t * ((t + _EPSILON) / (s + _EPSILON)).log()).sum() / max(len(s), 1) ** 2


def _neighbours(x: Tensor) -> Tensor:
    x = x / (x.norm(dim=1, keepdim=True) + _EPSILON)
    similarity = (x @ x.T + 1) / 2
    return similarity / similarity.sum(1, keepdim=True).clamp_min(_EPSILON)


class Probabilistic(PooledLoss[ProbabilisticConfig]):
    """Probabilities of neighbours in a batch, the mean over the pairs of taps; see :func:`probabilistic`."""

    other_names = ("pkt",)
    citation = Citation(
        "Learning Deep Representations with Probabilistic Knowledge Transfer", "1803.10837", "passalis2018learning"
    )
    family = "relations"

    def forward(self, inputs: LossInputs) -> Tensor:
        return torch.stack([probabilistic(*pair) for pair in self.pooled_pairs(inputs)]).mean()
