"""``reviewkd``: the student's deep stages review its shallow ones before both are compared with the teacher's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from stillroom.losses.base import Citation, LossInputs
from stillroom.losses.connectors import channels_of
from stillroom.losses.feature_base import MapConfig, MapLoss
from stillroom.losses.numerics import batch_mean, check_maps, mean_of_each, widen
from stillroom.losses.setup_context import SetupContext
from stillroom.models.reader import FEATURES
from stillroom.models.taps import Tap

_LEVELS = (4, 2, 1)


class ReviewKDConfig(MapConfig):
    """Knowledge review: stages fused from deep to shallow, compared at several resolutions."""

    name: Literal["reviewkd"] = "reviewkd"
    max_channels: int = Field(512, ge=1, description="Most channels of the fused maps; else the deepest stage's.")


def reviewkd(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    """Hierarchical context loss: maps are compared as they are, and pooled to 4×4, 2×2 and 1×1.

    Formula: ``Σ_stages [MSE + Σ_l 2^(−l)·MSE_l] / [1 + Σ_l 2^(−l)]``, l = 1, 2, … counting those of the grids 4×4, 2×2
    and 1×1 that are lower than the map; MSE the mean over all entries, MSE_l that of both maps average-pooled.

    Args:
        student_features: fused and brought to the teacher's shapes, [B, C, H, W] each.
        teacher_features: of the same shapes; detached.

    Returns:
        Scalar.

    Raises:
        ValueError: the numbers of stages or the shapes differ.

    Paper: Chen et al., Distilling Knowledge via Knowledge Review, arXiv 2104.09044.

    >>> maps = [torch.rand(2, 3, 4, 4)]
    >>> round(reviewkd([maps[0] + 1], maps).item(), 4)
    1.0
    """
    stages = []
    for student, teacher in check_maps(student_features, teacher_features, same_channels=True):
        total = batch_mean(mean_of_each((student - teacher).square()))
        factor, factors = 1.0, 1.0
        for level in (level for level in _LEVELS if level < student.shape[2]):
            pooled = F.adaptive_avg_pool2d(student, level) - F.adaptive_avg_pool2d(teacher, level)
            factor /= 2
            total, factors = total + factor * batch_mean(mean_of_each(pooled.square())), factors + factor
        stages.append(total / factors)
    return torch.stack(stages).sum()


class ReviewKD(MapLoss[ReviewKDConfig]):
    """Knowledge review; see :func:`reviewkd` for the comparison.

    From deep to shallow each student stage goes through a 1×1 convolution; what came from below it, interpolated
    (nearest), is mixed in by two attention maps; a 3×3 convolution brings the result to the teacher's channels. The
    features before the last layer are the deepest stage, a 1×1 map. A stage of one place has no batch norm, as a
    batch of one has no statistics there. What is fused is used in training alone.
    """

    other_names = ("review",)
    citation = Citation("Distilling Knowledge via Knowledge Review", "2104.09044", "chen2021distilling")

    def setup(self, setup_context: SetupContext) -> None:
        """Choose the stages and make their fusions."""
        super().setup(setup_context)
        channels = min(self.config.max_channels, channels_of(self.pairs[-1][1]))
        with setup_context.seeded("reviewkd", *(tap.name for pair in self.pairs for tap in pair)):
            fusions = [
                _Fusion(student, teacher, channels, deepest=place == len(self.pairs) - 1)
                for place, (teacher, student) in enumerate(self.pairs)
            ]
        self.fusions = nn.ModuleList(fusions)

    def choose_pairs(self, setup_context: SetupContext, field: str) -> tuple[tuple[Tap, Tap], ...]:
        """The maps that the options mean; by default the features before the last layer as well."""
        pairs = super().choose_pairs(setup_context, field)
        if self.config.taps == "maps":
            pairs += tuple(pair for pair in setup_context.pairs if pair[0].name == FEATURES)
        return pairs

    def forward(self, inputs: LossInputs) -> Tensor:
        students, teachers = (maps[::-1] for maps in self.maps(inputs))
        fused, compared = None, []
        for student, teacher, fusion in zip(students, teachers, reversed(self.fusions), strict=True):
            stage, fused = fusion(widen(student), fused, tuple(teacher.shape[2:]))
            compared.append(stage)
        return reviewkd(compared, teachers)


class _Fusion(nn.Module):
    """One stage's attention-based fusion: (the stage, what came from below it) → (in the teacher's shape, fused)."""

    def __init__(self, student: Tap, teacher: Tap, channels: int, *, deepest: bool) -> None:
        super().__init__()
        self.reduce = _conv(channels_of(student), channels, 1, normed=_has_places(student))
        self.attend = None if deepest else nn.Conv2d(2 * channels, 2, 1)
        self.expand = _conv(channels, channels_of(teacher), 3, normed=_has_places(teacher))

    def forward(self, stage: Tensor, below: Tensor | None, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        x = self.reduce(stage)
        if self.attend is not None and below is not None:
            below = F.interpolate(below, x.shape[2:], mode="nearest")
            weights = torch.sigmoid(self.attend(torch.cat([x, below], 1)))
            x = x * weights[:, :1] + below * weights[:, 1:]
        if tuple(x.shape[2:]) != grid:
            x = F.interpolate(x, grid, mode="nearest")
        return self.expand(x), x


def _conv(channels: int, out: int, kernel: int, *, normed: bool) -> nn.Module:
    layer = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_uniform_(layer.weight, a=1)
    return nn.Sequential(layer, nn.BatchNorm2d(out)) if normed else layer


def _has_places(tap: Tap) -> bool:
    return math.prod(tap.resolution or ()) > 1
