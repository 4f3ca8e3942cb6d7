"""``jacobian_matching``: how the most likely class's logit depends on the image."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from stillroom.losses.base import Citation, Loss, LossConfig, LossInputs, Requires
from stillroom.losses.numerics import batch_mean, check_features, check_pair
from stillroom.losses.setup_context import SetupContext
from stillroom.teachers.input_gradients import TOP_LOGIT, differentiated


class JacobianMatchingConfig(LossConfig):
    """Direction of the gradient of one logit in the image."""

    name: Literal["jacobian_matching"] = "jacobian_matching"


def jacobian_matching(student_gradient: Tensor, teacher_gradient: Tensor) -> Tensor:
    """Jacobian matching: both models' logits are to depend on the image in the same direction.

    Formula: ``mean_b ‖g_s/‖g_s‖ − g_t/‖g_t‖‖²``, g = ∂z_k/∂x the gradient of one logit in the image. The paper replaces
    the Jacobian of all classes by one row of it, as each row costs a backward pass; here k is the class that the
    teacher finds most likely. A gradient of 0 is left 0.

    Args:
        student_gradient: g_s, [B, …].
        teacher_gradient: g_t, [B, …]; detached.

    Returns:
        Scalar between 0 and 4.

    Raises:
        ValueError: the shapes differ.

    Paper: Srinivas & Fleuret, Knowledge Transfer with Jacobian Matching, arXiv 1803.00443.

    >>> import torch
    >>> g = torch.tensor([[3.0, 4.0]])
    >>> round(jacobian_matching(2 * g, g).item(), 6), round(jacobian_matching(-g, g).item(), 6)
    (0.0, 4.0)
    """
    student, teacher = check_features(student_gradient, teacher_gradient)
    gap = F.normalize(student.flatten(1), dim=1) - F.normalize(teacher.flatten(1), dim=1)
    return batch_mean(gap.square().sum(1))


class JacobianMatching(Loss[JacobianMatchingConfig]):
    """Direction of the gradient of the teacher's most likely class's logit in the image; see :func:`jacobian_matching`.

    The student is differentiated twice; with batch norm, an image's gradient is that of the whole batch's sum.
    """

    other_names = ("jacobian",)
    citation = Citation("Knowledge Transfer with Jacobian Matching", "1803.00443", "srinivas2018knowledge")
    family = "gradients"
    requires = Requires(teacher=True, teacher_features=(TOP_LOGIT,), input_gradient=True)

    def setup(self, setup_context: SetupContext) -> None:
        """Nothing to set up but that there is a model to differentiate.

        Raises:
            BadInput: the teacher is none.
        """
        _ = setup_context.teacher

    def forward(self, inputs: LossInputs) -> Tensor:
        student, teacher = check_pair(inputs.student.logits, inputs.teacher_logits)
        logit = differentiated(TOP_LOGIT, student, teacher, inputs.labels)
        return jacobian_matching(inputs.input_gradient(logit), inputs.teacher_features[TOP_LOGIT])
