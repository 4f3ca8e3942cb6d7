"""The logit members of the KL family."""

from __future__ import annotations

from torch import Tensor

from stillroom.objectives import functional
from stillroom.objectives.base import Lesson, Objective, Paper, Reads
from stillroom.objectives.config import KLConfig, LogitFisherConfig, LogitMSEConfig


class KL(Objective[KLConfig]):
    """KL divergence to the teacher's softened answer; see :func:`functional.kl`."""

    paper = Paper("Distilling the Knowledge in a Neural Network", "1503.02531", "hinton2015distilling")
    reads = Reads(teacher=True)

    def forward(self, lesson: Lesson) -> Tensor:
        """The loss of one batch."""
        return functional.kl(lesson.student.logits, lesson.teacher_logits, temperature=self.config.temperature)


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
