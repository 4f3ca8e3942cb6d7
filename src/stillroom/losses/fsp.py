"""``fsp``: how one stage's channels go with the next one's: flow of the solution procedure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from stillroom.losses.base import Citation, LossInputs
from stillroom.losses.feature_base import MapConfig, MapLoss
from stillroom.losses.numerics import batch_mean, check_maps, mean_of_each, pooled_to


class FSPConfig(MapConfig):
    """Gram matrices of consecutive stages."""

    name: Literal["fsp"] = "fsp"
    connector: Literal["auto", "identity"] = Field(  # type: ignore[assignment]
        "auto",
        description="What the student's maps go through: auto learns a map to the teacher's channels; identity takes "
        "them as they are, and needs as many.",
    )


def fsp(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    """Flow of the solution procedure: Gram matrices between the channels of consecutive stages.

    Formula: ``Σ_i mean_{b,c,d} (G_s − G_t)²``, G_cd = the mean over places of h_i,c·h_{i+1},d, the larger of the two
    stages' grids average-pooled to the smaller; before that, the larger of a stage's grids in the two models.

    Args:
        student_features: [B, C, H, W] each, two stages or more.
        teacher_features: the like, with as many channels; detached.

    Returns:
        Scalar.

    Raises:
        ValueError: there are fewer than two stages, or the numbers of stages, images or channels differ.

    Paper: Yim et al., A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer
    Learning, CVPR 2017.

    >>> maps = [torch.rand(2, 3, 4, 4), torch.rand(2, 5, 2, 2)]
    >>> fsp(maps, maps).item()
    0.0
    """
    if len(student_features) < 2:
        raise ValueError(f"features: got {len(student_features)} stages; expected at least 2")
    stages = list(check_maps(student_features, teacher_features, same_channels=True))
    gaps = []
    for (s0, t0), (s1, t1) in pairwise(stages):
        gap = _flow(s0, s1) - _flow(t0, t1)
        gaps.append(batch_mean(mean_of_each(gap.square())))
    return torch.stack(gaps).sum()


def _flow(first: Tensor, second: Tensor) -> Tensor:
    """Gram matrix of two stages' channels, [B, C, D]."""
    grid = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    first, second = pooled_to(first, grid).flatten(2), pooled_to(second, grid).flatten(2)
    return first @ second.transpose(1, 2) / first.shape[2]


class FSP(MapLoss[FSPConfig]):
    """Gram matrices of consecutive stages; see :func:`fsp`."""

    citation = Citation(
        "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning",
        "",
        "yim2017gift",
        "CVPR 2017",
    )

    def forward(self, inputs: LossInputs) -> Tensor:
        return fsp(*self.maps(inputs))
