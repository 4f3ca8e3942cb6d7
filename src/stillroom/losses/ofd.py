"""``ofd``: features before the activation, as far as they matter after it: a margin ReLU and a partial distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, Tag
from torch import Tensor

from stillroom.errors import BadInput
from stillroom.losses.base import Citation, LossInputs
from stillroom.losses.connectors import to_rows
from stillroom.losses.feature_base import WORD_OR_LIST, MapConfig, MapLoss, TapList, only_words
from stillroom.losses.numerics import check_maps
from stillroom.losses.setup_context import SetupContext
from stillroom.models.modes import eval_mode
from stillroom.models.reader import PRE, TapReader
from stillroom.models.taps import Tap

# Training images that the margins are measured on.
_IMAGES = 256


class OFDConfig(MapConfig):
    """Overhaul of feature distillation: pre-activations with a margin ReLU."""

    name: Literal["ofd"] = "ofd"
    taps: Annotated[Annotated[Literal["maps"], Tag("tag:word")] | TapList, WORD_OR_LIST, only_words("maps")] = Field(
        "maps",
        description="Where maps are read: maps (every pair that `stillroom taps` shows and that has places in both, "
        "before its last activation where both have one), or a list, as for feature_mse.",
    )
    connector: Literal["auto", "identity"] = Field(  # type: ignore[assignment]
        "auto",
        description="What the student's maps go through: auto learns a map to the teacher's channels; identity takes "
        "them as they are, and needs as many.",
    )


def ofd(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], margins: Sequence[Tensor]) -> Tensor:
    """Overhaul of feature distillation: squared differences of pre-activations, without those the ReLU removes anyway.

    Formula: ``1/(1000·B)·Σ_i 2^(i−n+1)·Σ (s − t')²·[s > t' or t' > 0]``, t' = max(t, m), over the stages
    i = 0 … n − 1 and all entries; m < 0 is a margin of each channel.

    Args:
        student_features: pre-activations s through a connector, [B, C, H, W] each, shallow to deep.
        teacher_features: t, of the same shapes; detached.
        margins: m of each stage, [C] each.

    Returns:
        Scalar.

    Raises:
        ValueError: the numbers of stages or the shapes differ.

    Paper: Heo et al., A Comprehensive Overhaul of Feature Distillation, arXiv 1904.01866.

    >>> s, t, m = torch.tensor([[[[-3.0, 2.0]]]]), torch.tensor([[[[-5.0, 1.0]]]]), torch.tensor([-1.0])
    >>> round(ofd([s], [t], [m]).item(), 4), round(ofd([-s], [t], [m]).item(), 4)
    (0.001, 0.025)
    """
    if len(margins) != len(student_features):
        raise ValueError(f"margins: got {len(margins)}; expected one for each of {len(student_features)} stages")
    stages = []
    for place, (student, teacher) in enumerate(check_maps(student_features, teacher_features, same_channels=True)):
        target = torch.maximum(teacher, margins[place].detach().to(teacher)[:, None, None])
        counts = (student > target) | (target > 0)
        stages.append(((student - target).square() * counts).sum() * 2.0 ** (place - len(student_features) + 1))
    return torch.stack(stages).sum() / 1000 / max(len(student_features[0]), 1)


class OFD(MapLoss[OFDConfig]):
    """Overhaul of feature distillation; see :func:`ofd`.

    A channel's margin is the mean of its negative pre-activations over 256 training images, evenly spread and not
    augmented, 0 where it has none; the published code works it out from the batch norm before the activation, which
    leaves a residual branch out.
    """

    other_names = ("overhaul",)
    citation = Citation("A Comprehensive Overhaul of Feature Distillation", "1904.01866", "heo2019comprehensive")

    def setup(self, setup_context: SetupContext) -> None:
        """Choose the pairs, make their connectors, measure the margins."""
        super().setup(setup_context)
        teacher = setup_context.teacher
        taps = TapReader(teacher.model, [tap.name for tap, _ in self.pairs], field="teacher")
        with torch.no_grad(), eval_mode(teacher.model), taps:
            teacher.model(teacher.sample(_IMAGES) if teacher.sample is not None else teacher.example())
        features = taps.take()
        for place, (tap, _) in enumerate(self.pairs):
            self.register_buffer(f"margin_{place}", _margin(features[tap.name], tap))

    def choose_pairs(self, setup_context: SetupContext, field: str) -> tuple[tuple[Tap, Tap], ...]:
        """The pairs that the options mean, before their last activation where both have one."""
        pairs = super().choose_pairs(setup_context, field)
        if self.config.taps != "maps":
            return pairs
        return tuple(_before_activation(setup_context, pair) for pair in pairs)

    def forward(self, inputs: LossInputs) -> Tensor:
        margins = [self.get_buffer(f"margin_{place}") for place in range(len(self.pairs))]
        return ofd(*self.maps(inputs), margins)


def _before_activation(setup_context: SetupContext, pair: tuple[Tap, Tap]) -> tuple[Tap, Tap]:
    teacher, student = pair
    try:
        before = setup_context.teacher.tap(teacher.name + PRE), setup_context.student.tap(student.name + PRE)
    except BadInput:  # one has no activation module there
        return pair
    same = all(new.shape == old.shape for new, old in zip(before, pair, strict=True))
    return before if same else pair


def _margin(features: Tensor, tap: Tap) -> Tensor:
    """Mean of the negative entries of each channel, [C]; 0 where there are none."""
    rows = to_rows(features.float(), tap).flatten(0, 1)
    negative = rows < 0
    return (rows * negative).sum(0) / negative.sum(0).clamp_min(1)
