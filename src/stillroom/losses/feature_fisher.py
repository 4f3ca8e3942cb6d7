"""``feature_fisher``: the gap in features under the diagonal of the teacher's Fisher matrix."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Discriminator, Field, Tag
from torch import Tensor

from stillroom.losses.base import Citation, LossInputs, Requires, Temperature
from stillroom.losses.feature_base import FeatureConfig, FeatureLoss
from stillroom.losses.numerics import batch_mean, check_features, match_layout, mean_of_each, widen
from stillroom.losses.setup_context import SetupContext
from stillroom.teachers.fisher import FisherOf

# `samples: auto` takes the expectation over all classes up to so many of them, and else draws so many.
_ALL_OF, _DRAWN = 16, 4


class FeatureFisherConfig(FeatureConfig):
    """Squared differences of features, each weighted by how much the teacher's answer depends on it."""

    name: Literal["feature_fisher"] = "feature_fisher"
    temperature: Temperature = 4.0
    samples: Annotated[
        Annotated[Literal["auto", "all"], Tag("tag:word")] | Annotated[int, Field(ge=1), Tag("tag:number")],
        Discriminator(lambda value: "tag:word" if isinstance(value, str) else "tag:number"),
    ] = Field(
        "auto",
        description="Classes drawn of the teacher's answer to weigh an image's features by: a number, or all, a "
        "backward pass of the teacher each; auto is all of up to 16 classes, else 4. Before a linear last layer the "
        "weights are exact and cost nothing.",
    )
    scale: Literal["kl", "mse"] = Field(
        "kl",
        description="kl: as large as the divergence it approximates; mse: divided by the weights' mean over the "
        "training set, so as large as feature_mse.",
    )

    @property
    def cached_features(self) -> int:
        """One more where the weights are to be worked out by backward passes."""
        return super().cached_features + (self.taps != "features")


def feature_fisher(
    student_feature: Tensor, teacher_feature: Tensor, weight: Tensor, *, weight_scale: float | None = None
) -> Tensor:
    """The gap in features, each weighed by how much the teacher's answer depends on it: the Fisher matrix's diagonal.

    Formula: ``½ Σ_j w_j δh_j²``, w = diag(Jᵀ F J) at h_t, J = ∂z_t/∂h, F = diag(p) − p pᵀ: on the scale of ``kl``, of
    whose second order it keeps the diagonal. With ``weight_scale`` c: ``mean_j (w_j/c) δh_j²``, on the scale of
    ``feature_mse``.

    Args:
        student_feature: r(h_s), [B, …]: the student's features, mapped to the teacher's shape where they differ.
        teacher_feature: h_t, [B, …]; detached.
        weight: w, of the same shape; detached.
        weight_scale: c > 0, the mean of w over the training set: one constant, never a batch's own.

    Returns:
        Scalar, mean over the batch: in nats × τ², or in squared units of the teacher's features.

    Raises:
        ValueError: the shapes differ, or c is not above 0.

    Paper: Hsu et al., A Closer Look at Knowledge Distillation with Features, Logits, and Gradients, arXiv 2203.10163.

    >>> gap, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 0.5]])
    >>> feature_fisher(gap, torch.zeros(1, 2), weight).item()
    3.0
    >>> feature_fisher(gap, torch.zeros(1, 2), weight, weight_scale=2.0).item()
    1.5
    """
    if weight_scale is not None and not weight_scale > 0:
        raise ValueError(f"weight_scale: got {weight_scale}; expected a number above 0")
    student, teacher = check_features(student_feature, teacher_feature)
    if weight.shape != teacher.shape:
        raise ValueError(f"weight: got {tuple(weight.shape)}; expected one weight a feature, {tuple(teacher.shape)}")
    gap = student - teacher
    weighed = gap.square() * match_layout(gap, widen(weight).detach().to(gap))
    if weight_scale is None:
        return batch_mean(0.5 * weighed.sum(tuple(range(1, weighed.dim()))))
    return batch_mean(mean_of_each(weighed)) / weight_scale


class FeatureFisher(FeatureLoss[FeatureFisherConfig]):
    """The gap in features under the Fisher matrix's diagonal, the mean over taps; see :func:`feature_fisher`."""

    citation = Citation(
        "A Closer Look at Knowledge Distillation with Features, Logits, and Gradients", "2203.10163", "hsu2022closer"
    )
    family = "gradients"
    tasks = ("single_label",)
    verb = "weighs by the teacher's gradients"
    leaves_padding_out = True  # the teacher's gradients there are 0
    weighings = ("diagonal",)

    def requirements(self, setup_context: SetupContext) -> Requires:
        """The features, and the Fisher weights of the teacher's."""
        required = super().requirements(setup_context)
        samples = self.config.samples
        if isinstance(samples, str):
            samples = 0 if samples == "all" or setup_context.num_classes <= _ALL_OF else _DRAWN
        fishers = tuple(FisherOf(tap, self.config.temperature, samples) for tap in required.teacher_features)
        return replace(required, fishers=fishers, fisher_means=fishers if self.config.scale == "mse" else ())

    def forward(self, inputs: LossInputs) -> Tensor:
        teacher, values = inputs.teacher_output, []
        inputs = replace(inputs, mask=None)
        for of, pair in zip(self.requires.fishers, self.feature_pairs(inputs), strict=True):
            # A mean of 0: the teacher depends on none of these features, and all weights are 0.
            scale = teacher.fisher_means[of] or None if self.config.scale == "mse" else None
            values.append(feature_fisher(*pair, teacher.fisher(of), weight_scale=scale))
        return torch.stack(values).mean()
