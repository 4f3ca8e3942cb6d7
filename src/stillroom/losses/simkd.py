"""``simkd``: the student keeps the teacher's last layer and learns the features that go into it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from stillroom.errors import BadInput
from stillroom.losses.base import Citation, LossInputs
from stillroom.losses.feature_base import FeatureLoss, PlainFeatureConfig
from stillroom.losses.numerics import batch_mean, check_features, check_maps, mean_of_each
from stillroom.losses.setup_context import SetupContext
from stillroom.models.reused_head import PROJECTOR, ReusedHead
from stillroom.models.taps import Tap


class SimKDConfig(PlainFeatureConfig):
    """Features of the teacher through a projector, and the teacher's own classifier behind it."""

    name: Literal["simkd"] = "simkd"
    taps: Literal["features"] = Field(
        "features", description="What is compared: the last map of both before its pooling, else the features."
    )
    factor: int = Field(2, ge=1, description="The projector's inner width is the teacher's channels divided by it.")


def simkd(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Reused classifier: the squared distance of the projected features from the teacher's.

    Formula: ``mean_{b,j} (P(h_s) − h_t)_j²``, P the student's projector. Of maps the larger is average-pooled to the
    smaller first.

    Args:
        student_feature: P(h_s), [B, C, H, W] or [B, d].
        teacher_feature: h_t, with as many channels; detached.

    Returns:
        Scalar.

    Raises:
        ValueError: the numbers of images or of channels differ.

    Paper: Chen et al., Knowledge Distillation with the Reused Teacher Classifier, arXiv 2203.14001.

    >>> import torch
    >>> simkd(torch.ones(2, 3), torch.zeros(2, 3)).item()
    1.0
    """
    if student_feature.dim() == teacher_feature.dim() == 4:
        ((student, teacher),) = check_maps([student_feature], [teacher_feature], same_channels=True)
    else:
        student, teacher = check_features(student_feature, teacher_feature)
    return batch_mean(mean_of_each((student - teacher).square()))


class SimKD(FeatureLoss[SimKDConfig]):
    """Reused classifier; see :func:`simkd` and :class:`stillroom.models.reused_head.ReusedHead`.

    The student of the run is a model of its own: its layers, a projector, and the teacher's last layer, frozen. So it
    is evaluated, saved and exported, and no teacher is needed for that. It needs no loss on labels.
    """

    citation = Citation("Knowledge Distillation with the Reused Teacher Classifier", "2203.14001", "chen2022knowledge")
    reuses_head = True

    def choose_pairs(self, setup_context: SetupContext, field: str) -> tuple[tuple[Tap, Tap], ...]:
        """The teacher's features, and the output of the student's projector.

        Raises:
            BadInput: the student has none: it does not end in the teacher's last layer.
        """
        student = setup_context.student.model
        if not isinstance(student, ReusedHead):
            expected = "a student that ends in the teacher's last layer, stillroom.models.reused_head.ReusedHead"
            raise BadInput("student", type(student).__name__, expected)
        return ((setup_context.teacher.tap(student.config.teacher_tap), setup_context.student.tap(PROJECTOR)),)

    def forward(self, inputs: LossInputs) -> Tensor:
        ((student, teacher),) = self.feature_pairs(inputs)
        return simkd(student.flatten(1) if teacher.dim() == 2 else student, teacher)
