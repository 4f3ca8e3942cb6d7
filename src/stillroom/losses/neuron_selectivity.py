"""``neuron_selectivity``: which patterns over places the channels answer to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stillroom.losses.base import Citation, LossInputs
from stillroom.losses.feature_base import MapConfig, MapLoss
from stillroom.losses.numerics import batch_mean, check_maps


class NeuronSelectivityConfig(MapConfig):
    """Neuron selectivity transfer, stage by stage."""

    name: Literal["neuron_selectivity"] = "neuron_selectivity"


def neuron_selectivity(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    """Neuron selectivity transfer: the distributions of channels' patterns, by maximum mean discrepancy.

    Formula: ``Σ_stages mean_b [mean k(t, t) + mean k(s, s) − 2·mean k(s, t)]``, s and t a channel's map over places, of
    length 1, k(a, b) = (a·b)². The larger of two grids is average-pooled to the smaller first. As (a·b)² = ⟨aaᵀ, bbᵀ⟩
    this is the squared distance of the two means of aaᵀ, which is computed so where there are fewer places than
    channels.

    Args:
        student_features: [B, C, H, W] each, of any C.
        teacher_features: the like; detached.

    Returns:
        Scalar.

    Raises:
        ValueError: the numbers of stages or of images differ.

    Paper: Huang & Wang, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, arXiv 1707.01219.

    >>> maps = [torch.rand(2, 3, 4, 4)]
    >>> abs(neuron_selectivity(maps, [maps[0].flip(1)]).item()) < 1e-6
    True
    """
    stages = []
    for student, teacher in check_maps(student_features, teacher_features):
        s, t = (F.normalize(x.flatten(2), dim=2) for x in (student, teacher))
        if s.shape[2] <= max(s.shape[1], t.shape[1]):
            gap = s.transpose(1, 2) @ s / s.shape[1] - t.transpose(1, 2) @ t / t.shape[1]
            each = gap.square().sum((1, 2))
        else:
            kernels = ((one @ other.transpose(1, 2)).square().mean((1, 2)) for one, other in ((t, t), (s, s), (s, t)))
            own_t, own_s, crossed = kernels
            each = own_t + own_s - 2 * crossed
        stages.append(batch_mean(each))
    return torch.stack(stages).sum()


class NeuronSelectivity(MapLoss[NeuronSelectivityConfig]):
    """Neuron selectivity transfer, summed over the stages; see :func:`neuron_selectivity`."""

    other_names = ("nst",)
    citation = Citation(
        "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", "1707.01219", "huang2017like"
    )

    def forward(self, inputs: LossInputs) -> Tensor:
        return neuron_selectivity(*self.maps(inputs))
