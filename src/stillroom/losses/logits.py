"""The logit members of the KL family."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor

from stillroom.errors import BadInput
from stillroom.losses import functional
from stillroom.losses.base import Citation, Loss, LossInputs, Requires
from stillroom.losses.config import KLConfig, LogitFisherConfig, LogitMSEConfig
from stillroom.losses.setup_context import SetupContext
from stillroom.losses.target_config import TopKConfig
from stillroom.losses.taught import reads_of, taught_logits


class KL(Loss[KLConfig]):
    """KL divergence to the teacher's softened answer, or to a part of it (``target``); see :func:`functional.kl`.

    The parts are those of :mod:`stillroom.targets`.
    """

    citation = Citation("Distilling the Knowledge in a Neural Network", "1503.02531", "hinton2015distilling")
    requires = Requires(teacher=True)

    def __init__(self, config: KLConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self._last: tuple[weakref.ref[LossInputs], Tensor] | None = None
        if self.config.target is not None:
            self.requires = reads_of(self.config.target)

    def setup(self, setup_context: SetupContext) -> None:
        """See that there are as many classes as the target keeps.

        Raises:
            BadInput: there are not.
        """
        target = self.config.target
        if isinstance(target, TopKConfig) and target.k > setup_context.num_classes:
            expected = f"{setup_context.num_classes} or less, the number of classes"
            raise BadInput(f"losses.{self.name}.target.k", target.k, expected)

    def taught(self, inputs: LossInputs) -> Tensor:
        """The logits that are taught, [B, K]: the teacher's, or those whose softened answer is the target."""
        if self.config.target is None:
            return inputs.teacher_logits
        # Whoever records the training asks before the loss does: a target is made once a batch.
        if self._last is None or self._last[0]() is not inputs:
            made = taught_logits(inputs, self.config.target, temperature=self.config.temperature)
            self._last = weakref.ref(inputs), made
        return self._last[1]

    def forward(self, inputs: LossInputs) -> Tensor:
        """The loss of one batch."""
        return functional.kl(inputs.student.logits, self.taught(inputs), temperature=self.config.temperature)


class LogitMSE(Loss[LogitMSEConfig]):
    """Mean squared error between logits; see :func:`functional.logit_mse`."""

    citation = Citation(
        "Comparing Kullback-Leibler Divergence and Mean Squared Error Loss in Knowledge Distillation",
        "2105.08919",
        "kim2021comparing",
    )
    requires = Requires(teacher=True)

    def forward(self, inputs: LossInputs) -> Tensor:
        """The loss of one batch."""
        return functional.logit_mse(inputs.student.logits, inputs.teacher_logits, centred=self.config.centred)


class LogitFisher(Loss[LogitFisherConfig]):
    """Second order of the KL divergence in the logits; see :func:`functional.logit_fisher`."""

    citation = Citation(
        "A Closer Look at Knowledge Distillation with Features, Logits, and Gradients", "2203.10163", "hsu2022closer"
    )
    requires = Requires(teacher=True)

    def forward(self, inputs: LossInputs) -> Tensor:
        """The loss of one batch."""
        return functional.logit_fisher(
            inputs.student.logits,
            inputs.teacher_logits,
            temperature=self.config.temperature,
            diagonal=self.config.diagonal,
        )
