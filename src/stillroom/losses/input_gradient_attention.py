"""``input_gradient_attention``: how the cross-entropy depends on the image: gradient-based attention transfer."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from stillroom.losses.base import Citation, Loss, LossConfig, LossInputs, Requires
from stillroom.losses.numerics import batch_mean, check_features, check_labels
from stillroom.losses.setup_context import SetupContext
from stillroom.teachers.input_gradients import LABEL_LOSS, differentiated


class InputGradientAttentionConfig(LossConfig):
    """Gradient of the cross-entropy in the image."""

    name: Literal["input_gradient_attention"] = "input_gradient_attention"


def input_gradient_attention(student_gradient: Tensor, teacher_gradient: Tensor) -> Tensor:
    """Gradient-based attention transfer: both models' losses are to depend on the image in the same way.

    Formula: ``mean_b ½·Σ (J_s − J_t)²``, J = ∂CE/∂x the gradient of the cross-entropy with the true label in the
    image, x in [0, 1] from black to white. The paper prints ½·‖J_s − J_t‖₂; the square is taken here, whose gradient
    exists at 0, too.

    Args:
        student_gradient: J_s, [B, …].
        teacher_gradient: J_t, [B, …]; detached.

    Returns:
        Scalar.

    Raises:
        ValueError: the shapes differ.

    Paper: Zagoruyko & Komodakis, Paying More Attention to Attention, arXiv 1612.03928, section 3.2.

    >>> import torch
    >>> input_gradient_attention(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]])).item()
    2.0
    """
    student, teacher = check_features(student_gradient, teacher_gradient)
    return batch_mean(0.5 * (student - teacher).square().flatten(1).sum(1))


class InputGradientAttention(Loss[InputGradientAttentionConfig]):
    """Gradient of the cross-entropy in the image; see :func:`input_gradient_attention`.

    The student is differentiated twice; with batch norm, an image's gradient is that of the whole batch's sum.
    """

    citation = Citation("Paying More Attention to Attention", "1612.03928", "zagoruyko2017paying")
    family = "gradients"
    requires = Requires(teacher=True, labels=True, teacher_features=(LABEL_LOSS,), input_gradient=True)

    def setup(self, setup_context: SetupContext) -> None:
        """Nothing to set up but that there is a model to differentiate.

        Raises:
            BadInput: the teacher is none.
        """
        _ = setup_context.teacher

    def forward(self, inputs: LossInputs) -> Tensor:
        student = check_labels(inputs.student.logits, inputs.labels)
        loss = differentiated(LABEL_LOSS, student, inputs.teacher_logits, inputs.labels)
        return input_gradient_attention(inputs.input_gradient(loss), inputs.teacher_features[LABEL_LOSS])
