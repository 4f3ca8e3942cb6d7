"""``activation_boundary``: on which side of 0 the teacher's pre-activations lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from stillroom.losses.base import Citation, LossInputs
from stillroom.losses.feature_base import MapConfig, MapLoss
from stillroom.losses.numerics import check_maps


class ActivationBoundaryConfig(MapConfig):
    """Signs of the teacher's pre-activations, with a margin."""

    name: Literal["activation_boundary"] = "activation_boundary"
    margin: float = Field(1.0, ge=0, description="Margin that the student's pre-activations are to keep from 0.")
    connector: Literal["auto", "identity"] = Field(  # type: ignore[assignment]
        "auto",
        description="What the student's maps go through: auto learns a map to the teacher's channels; identity takes "
        "them as they are, and needs as many. Taps NAME:pre read before an activation.",
    )


def activation_boundary(
    student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], *, margin: float = 1.0
) -> Tensor:
    """Activation boundaries: the student's pre-activations are to have the teacher's signs, with a margin.

    Formula: ``3/(1000·B)·Σ_i 2^(i−n+1)·Σ (s + m)²·[s > −m, t ≤ 0] + (s − m)²·[s ≤ m, t > 0]``, over the stages
    i = 0 … n − 1 and all entries.

    Args:
        student_features: pre-activations s, [B, C, H, W] each, shallow to deep.
        teacher_features: t, of the same shapes; detached.
        margin: m.

    Returns:
        Scalar.

    Raises:
        ValueError: the numbers of stages or the shapes differ.

    Paper: Heo et al., Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons,
    arXiv 1811.03233.

    >>> s, t = torch.tensor([[[[2.0, -2.0]]]]), torch.tensor([[[[1.0, -1.0]]]])
    >>> activation_boundary([s], [t]).item(), round(activation_boundary([s], [-t]).item(), 4)
    (0.0, 0.054)
    """
    stages = []
    for place, (student, teacher) in enumerate(check_maps(student_features, teacher_features, same_channels=True)):
        below = (student + margin).square() * ((student > -margin) & (teacher <= 0))
        above = (student - margin).square() * ((student <= margin) & (teacher > 0))
        stages.append((below + above).sum() * 2.0 ** (place - len(student_features) + 1))
    return torch.stack(stages).sum() * (3 / 1000) / max(len(student_features[0]), 1)


class ActivationBoundary(MapLoss[ActivationBoundaryConfig]):
    """Signs of the teacher's pre-activations; see :func:`activation_boundary`."""

    other_names = ("ab", "abound")
    citation = Citation(
        "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
        "1811.03233",
        "heo2019knowledge",
    )

    def forward(self, inputs: LossInputs) -> Tensor:
        return activation_boundary(*self.maps(inputs), margin=self.config.margin)
