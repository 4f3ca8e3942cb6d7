"""``srrl``: the student's features, judged by the teacher's own last layer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from stillroom.losses.base import Citation, LossInputs, Requires
from stillroom.losses.feature_base import FeatureConfig, FeatureLoss
from stillroom.losses.feature_mse import feature_mse
from stillroom.losses.logit_mse import logit_mse
from stillroom.losses.setup_context import SetupContext


class SRRLConfig(FeatureConfig):
    """Softmax regression representation learning."""

    name: Literal["srrl"] = "srrl"
    taps: Literal["features"] = Field("features", description="Where features are read: before the last layer.")
    beta: float = Field(1.0, ge=0, description="Factor of the logits that the teacher's last layer gives.")


def srrl(
    student_feature: Tensor,
    teacher_feature: Tensor,
    crossed_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 1.0,
) -> Tensor:
    """Softmax regression representation learning: features, and what the teacher's last layer makes of them.

    Formula: ``mean_{b,j} (r(h_s) − h_t)_j² + β·mean_{b,k} (W·r(h_s) + c − z_t)_k²``, W and c the teacher's last layer.

    Args:
        student_feature: r(h_s), [B, d].
        teacher_feature: h_t, [B, d]; detached.
        crossed_logits: W·r(h_s) + c, [B, K].
        teacher_logits: z_t, [B, K]; detached.
        beta: β.

    Returns:
        Scalar.

    Raises:
        ValueError: the shapes differ.

    Paper: Yang et al., Knowledge Distillation via Softmax Regression Representation Learning, ICLR 2021.

    >>> import torch
    >>> h, z = torch.rand(2, 3), torch.rand(2, 4)
    >>> srrl(h, h, z, z).item()
    0.0
    """
    return feature_mse(student_feature, teacher_feature) + beta * logit_mse(crossed_logits, teacher_logits)


class SRRL(FeatureLoss[SRRLConfig]):
    """Softmax regression representation learning; see :func:`srrl`."""

    citation = Citation(
        "Knowledge Distillation via Softmax Regression Representation Learning", "", "yang2021knowledge", "ICLR 2021"
    )

    def requirements(self, setup_context: SetupContext) -> Requires:
        """The features of both, and the teacher's last layer."""
        ((teacher, student),) = self.pairs
        return Requires(
            teacher=True,
            teacher_features=(teacher.name,),
            student_features=(student.name,),
            tails=(teacher.name,),
        )

    def forward(self, inputs: LossInputs) -> Tensor:
        ((teacher_tap, _),) = self.pairs
        ((student, teacher),) = self.feature_pairs(inputs)
        crossed = inputs.teacher_output.tail(teacher_tap.name)(student)
        return srrl(student, teacher, crossed, inputs.teacher_logits, beta=self.config.beta)
