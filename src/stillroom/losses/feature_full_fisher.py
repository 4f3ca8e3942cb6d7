"""``feature_full_fisher``: second order of the KL divergence in features, through the teacher's own tail."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from stillroom.losses.base import Citation, LossInputs, Requires, Temperature
from stillroom.losses.feature_base import FeatureConfig, FeatureLoss
from stillroom.losses.numerics import batch_mean, check_features, widen
from stillroom.losses.setup_context import SetupContext


class FeatureFullFisherConfig(FeatureConfig):
    """Second order of the KL divergence in the features, through the teacher's own tail."""

    name: Literal["feature_full_fisher"] = "feature_full_fisher"
    temperature: Temperature = 4.0


def feature_full_fisher(
    student_feature: Tensor, teacher_feature: Tensor, jacobian: Tensor, probabilities: Tensor
) -> Tensor:
    """The gap in features weighed by the teacher's Fisher matrix in them: the second order of ``kl`` through its tail.

    Formula: ``½ δhᵀ Jᵀ F J δh = ½ Var_p(J δh)``, J = ∂z_t/∂h at h_t, F = diag(p) − p pᵀ; equal to
    ``(τ²/2)·E_{i∼p}[(g_i·δh)²]``, g_i = ∇_h log p_i.

    Args:
        student_feature: r(h_s), [B, …]: the student's features, mapped to the teacher's shape where they differ.
        teacher_feature: h_t, [B, …]; detached.
        jacobian: J, [B, K, d], d the number of one image's features; detached.
        probabilities: p, [B, K], softened at τ; detached.

    Returns:
        Scalar, in squared logits, mean over the batch: on the scale of ``kl``.

    Raises:
        ValueError: the shapes differ.

    Paper: Hsu et al., A Closer Look at Knowledge Distillation with Features, Logits, and Gradients, arXiv 2203.10163.

    >>> half, jacobian = torch.tensor([[0.5, 0.5]]), torch.tensor([[[1.0], [-1.0]]])
    >>> feature_full_fisher(torch.tensor([[1.0]]), torch.zeros(1, 1), jacobian, half).item()
    0.5
    """
    student, teacher = check_features(student_feature, teacher_feature)
    gap = (student - teacher).flatten(1)
    if jacobian.shape != (len(gap), probabilities.shape[-1], gap.shape[1]):
        expected = f"[batch, classes, features] = {(len(gap), probabilities.shape[-1], gap.shape[1])}"
        raise ValueError(f"jacobian: got {tuple(jacobian.shape)}; expected {expected}")
    moved = (widen(jacobian).detach() @ gap[..., None])[..., 0]
    return half_variance(moved, probabilities)


def half_variance(moved: Tensor, probabilities: Tensor) -> Tensor:
    """Half the variance, under the teacher's answer, of what a step in the features adds to its logits.

    Formula: ``½ Var_p(u) = ½ uᵀ F u``, u = J δh: with it, :func:`feature_full_fisher` without the Jacobian, of which
    one product with the gap is all that is needed.

    Args:
        moved: u, [B, K].
        probabilities: p, [B, K]; detached.

    Returns:
        Scalar, in squared logits, mean over the batch.

    Raises:
        ValueError: the shapes differ.

    >>> half_variance(torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 0.5]])).item()
    0.5
    """
    if moved.dim() != 2 or moved.shape != probabilities.shape:
        raise ValueError(
            f"probabilities: got {tuple(probabilities.shape)}; expected the shape of the logits, {tuple(moved.shape)}"
        )
    moved = widen(moved)
    p = widen(probabilities).detach().to(moved.dtype)
    centred = moved - (p * moved).sum(1, keepdim=True)
    return batch_mean(0.5 * (p * centred.square()).sum(1))


class FeatureFullFisher(FeatureLoss[FeatureFullFisherConfig]):
    """The gap in features under the whole Fisher matrix, the mean over taps; see :func:`feature_full_fisher`.

    The Jacobian is never written down: one product with it carries the gap to the logits, through the teacher's tail.
    """

    citation = Citation(
        "A Closer Look at Knowledge Distillation with Features, Logits, and Gradients", "2203.10163", "hsu2022closer"
    )
    family = "gradients"
    tasks = ("single_label",)
    leaves_padding_out = True  # the teacher's tail does
    verb = "carries through the teacher, to second order,"
    weighings = ("full",)

    def requirements(self, setup_context: SetupContext) -> Requires:
        """The features, and the teacher from there on."""
        required = super().requirements(setup_context)
        return replace(required, tails=required.teacher_features)

    def forward(self, inputs: LossInputs) -> Tensor:
        output, values = inputs.teacher_output, []
        # Weighed, tokens would no longer be those that the tail reads; it gives padding no weight.
        inputs = replace(inputs, mask=None)
        p = torch.softmax(output.logits.detach() / self.config.temperature, 1)
        for tap, (student, teacher) in zip(self.requires.tails, self.feature_pairs(inputs), strict=True):
            student, teacher = check_features(student, teacher)
            moved = output.tail(tap).jvp(teacher, student - teacher)
            values.append(half_variance(moved, p))
        return torch.stack(values).mean()
