"""``attention_transfer``: where the energy of a map lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from stillroom.losses.base import Citation, LossInputs
from stillroom.losses.feature_base import MapConfig, MapLoss
from stillroom.losses.numerics import batch_mean, check_maps


class AttentionTransferConfig(MapConfig):
    """Attention maps of both models, stage by stage."""

    name: Literal["attention_transfer"] = "attention_transfer"
    power: int = Field(2, ge=1, description="Exponent of the activations, before their mean over channels.")


def attention_transfer(
    student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], *, power: int = 2
) -> Tensor:
    """Attention transfer: maps of both models are to have their energy at the same places.

    Formula: ``Σ_stages mean_{b,i} (a_s − a_t)²``, a = the mean over channels of h^power, flattened, of length 1 for
    each image. The larger of two grids is average-pooled to the smaller first.

    Args:
        student_features: [B, C, H, W] each, of any C.
        teacher_features: the like; detached.
        power: exponent.

    Returns:
        Scalar.

    Raises:
        ValueError: the numbers of stages or of images differ.

    Paper: Zagoruyko & Komodakis, Paying More Attention to Attention, arXiv 1612.03928.

    >>> maps = [torch.rand(2, 3, 4, 4)]
    >>> attention_transfer(maps, [10 * maps[0]]).item() < 1e-12
    True
    """
    stages = []
    for student, teacher in check_maps(student_features, teacher_features):
        gap = attention_map(student, power) - attention_map(teacher, power)
        stages.append(batch_mean(gap.square().mean(1)))
    return torch.stack(stages).sum()


def attention_map(feature: Tensor, power: int = 2) -> Tensor:
    """Where a map's energy lies: the mean over channels of its power, of length 1: [B, C, H, W] → [B, H·W].

    >>> attention_map(torch.tensor([[[[2.0, 0.0]], [[0.0, 0.0]]]])).tolist()
    [[1.0, 0.0]]
    """
    return F.normalize(feature.pow(power).mean(1).flatten(1), dim=1)


class AttentionTransfer(MapLoss[AttentionTransferConfig]):
    """Attention maps of both models, summed over the stages; see :func:`attention_transfer`."""

    other_names = ("at", "attention")
    citation = Citation("Paying More Attention to Attention", "1612.03928", "zagoruyko2017paying")

    def forward(self, inputs: LossInputs) -> Tensor:
        return attention_transfer(*self.maps(inputs), power=self.config.power)
