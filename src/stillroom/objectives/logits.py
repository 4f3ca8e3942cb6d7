"""The logit members of the KL family."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor

from stillroom.errors import BadInput
from stillroom.objectives import functional
from stillroom.objectives.base import Lesson, Objective, Paper, Reads
from stillroom.objectives.config import KLConfig, LogitFisherConfig, LogitMSEConfig
from stillroom.objectives.meeting import Meeting
from stillroom.objectives.target_config import TopKConfig
from stillroom.objectives.taught import reads_of, taught_logits


class KL(Objective[KLConfig]):
    """KL divergence to the teacher's softened answer, or to a part of it (``target``); see :func:`functional.kl`.

    The parts are those of :mod:`stillroom.targets`.
    """

    paper = Paper("Distilling the Knowledge in a Neural Network", "1503.02531", "hinton2015distilling")
    reads = Reads(teacher=True)

    def __init__(self, config: KLConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self._last: tuple[weakref.ref[Lesson], Tensor] | None = None
        if self.config.target is not None:
            self.reads = reads_of(self.config.target)

    def meet(self, meeting: Meeting) -> None:
        """See that there are as many classes as the target keeps.

        Raises:
            BadInput: there are not.
        """
        target = self.config.target
        if isinstance(target, TopKConfig) and target.k > meeting.num_classes:
            expected = f"{meeting.num_classes} or less, the number of classes"
            raise BadInput(f"objectives.{self.name}.target.k", target.k, expected)

    def taught(self, lesson: Lesson) -> Tensor:
        """The logits that are taught, [B, K]: the teacher's, or those whose softened answer is the target."""
        if self.config.target is None:
            return lesson.teacher_logits
        # Whoever records the training asks before the loss does: a target is made once a lesson.
        if self._last is None or self._last[0]() is not lesson:
            made = taught_logits(lesson, self.config.target, temperature=self.config.temperature)
            self._last = weakref.ref(lesson), made
        return self._last[1]

    def forward(self, lesson: Lesson) -> Tensor:
        """The loss of one batch."""
        return functional.kl(lesson.student.logits, self.taught(lesson), temperature=self.config.temperature)


class LogitMSE(Objective[LogitMSEConfig]):
    """Mean squared error between logits; see :func:`functional.logit_mse`."""

    paper = Paper(
        "Comparing Kullback-Leibler Divergence and Mean Squared Error Loss in Knowledge Distillation",
        "2105.08919",
        "kim2021comparing",
    )
    reads = Reads(teacher=True)

    def forward(self, lesson: Lesson) -> Tensor:
        """The loss of one batch."""
        return functional.logit_mse(lesson.student.logits, lesson.teacher_logits, centred=self.config.centred)


class LogitFisher(Objective[LogitFisherConfig]):
    """Second order of the KL divergence in the logits; see :func:`functional.logit_fisher`."""

    paper = Paper(
        "A Closer Look at Knowledge Distillation with Features, Logits, and Gradients", "2203.10163", "hsu2022closer"
    )
    reads = Reads(teacher=True)

    def forward(self, lesson: Lesson) -> Tensor:
        """The loss of one batch."""
        return functional.logit_fisher(
            lesson.student.logits,
            lesson.teacher_logits,
            temperature=self.config.temperature,
            diagonal=self.config.diagonal,
        )
