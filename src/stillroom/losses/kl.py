"""``kl``: Kullback-Leibler divergence to the teacher's softened answer, or to a part of it (``target``)."""

from __future__ import annotations

import weakref
from typing import Any, Literal

import torch.nn.functional as F
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor

from stillroom.errors import BadInput
from stillroom.losses.base import Citation, Loss, LossConfig, LossInputs, Requires, Temperature
from stillroom.losses.numerics import batch_mean, check_pair, check_temperature
from stillroom.losses.setup_context import SetupContext
from stillroom.losses.targets import Target, TopKConfig, is_unsoftened, name_in_schema, target_logits


class KLConfig(LossConfig):
    """Kullback-Leibler divergence to the teacher's softened answer, or to a part of it."""

    left_out = ("teacher", "target")

    name: Literal["kl"] = "kl"
    temperature: Temperature = 4.0
    target: Target = Field(
        None,
        description="Part of the teacher's answer to learn: full (all of it, the default), uniform, "
        "class_similarity, top_k, true_class, true_class_similarity, mean_confidence, class_relations, "
        "true_class_relations, or {name: top_k, k: 5}. uniform and class_similarity do not derive from the softened "
        "answer and are used at temperature 1.",
        json_schema_extra=name_in_schema,
    )

    @model_validator(mode="before")
    @classmethod
    def _unsoftened_at_1(cls, content: Any) -> Any:
        if isinstance(content, dict) and is_unsoftened(content.get("target")):
            return {"temperature": 1.0, **content}
        return content

    @field_validator("target")
    @classmethod
    def _at_1(cls, target: Target, info: ValidationInfo) -> Target:
        if is_unsoftened(target) and info.data.get("temperature", 1.0) != 1:
            raise ValueError("a target that derives from the softened answer, or temperature 1")
        return target

    @property
    def softening_temperature(self) -> float | None:
        """τ; None of a target that does not derive from the softened answer."""
        return None if is_unsoftened(self.target) else super().softening_temperature


def kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Kullback-Leibler divergence from the teacher's softened answer to the student's.

    Formula: ``τ²·KL(p‖q)``, p = softmax(z_t/τ), q = softmax(z_s/τ); sum over classes, mean over the batch.

    Args:
        student_logits: z_s, [B, K].
        teacher_logits: z_t, [B, K]; detached.
        temperature: τ > 0.

    Returns:
        Scalar, in nats × τ²; the factor keeps the gradient's size when τ changes.

    Raises:
        ValueError: the shapes differ, or τ is not above 0.

    Paper: Hinton et al., Distilling the Knowledge in a Neural Network, arXiv 1503.02531.

    >>> import torch
    >>> z = torch.tensor([[1.0, 2.0, 3.0]])
    >>> kl(z, z).item()
    0.0
    >>> round(kl(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), temperature=1.0).item(), 4)
    0.1109
    """
    check_temperature(temperature)
    student, teacher = check_pair(student_logits, teacher_logits)
    log_q = F.log_softmax(student / temperature, dim=1)
    log_p = F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * batch_mean(F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1))


class KL(Loss[KLConfig]):
    """KL divergence to the teacher's softened answer, or to a part of it (``target``); see :func:`kl`.

    The parts are those of :mod:`stillroom.losses.targets`.
    """

    other_names = ("kd",)
    citation = Citation("Distilling the Knowledge in a Neural Network", "1503.02531", "hinton2015distilling")
    family = "logits"
    requires = Requires(teacher=True)
    kl_like = True
    rescaling_part = "teacher"
    weighings = ("exact",)

    def __init__(self, config: KLConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self._last: tuple[weakref.ref[LossInputs], Tensor] | None = None
        if self.config.target is not None:
            self.requires = self.config.target.requires_at(self.config.temperature)

    def setup(self, setup_context: SetupContext) -> None:
        """Check that there are as many classes as the target keeps.

        Raises:
            BadInput: there are fewer.
        """
        target = self.config.target
        if isinstance(target, TopKConfig) and target.k > setup_context.num_classes:
            expected = f"{setup_context.num_classes} or less, the number of classes"
            raise BadInput(f"losses.{self.name}.target.k", target.k, expected)

    def target_logits(self, inputs: LossInputs) -> Tensor:
        """The logits to learn, [B, K]: the teacher's, or those whose softened answer is the target."""
        if self.config.target is None:
            return inputs.teacher_logits
        # Recording the rescaling asks before the loss does: a target is computed once a batch.
        if self._last is None or self._last[0]() is not inputs:
            made = target_logits(inputs, self.config.target, temperature=self.config.temperature)
            self._last = weakref.ref(inputs), made
        return self._last[1]

    def forward(self, inputs: LossInputs) -> Tensor:
        return kl(inputs.student.logits, self.target_logits(inputs), temperature=self.config.temperature)
