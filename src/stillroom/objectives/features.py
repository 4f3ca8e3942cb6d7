"""Objectives that compare features at taps: which taps, and through which connectors, they find out by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from stillroom.models.finding import Tap
from stillroom.objectives import functional
from stillroom.objectives.base import Lesson, Objective, Paper, Reads
from stillroom.objectives.config import FeatureConfig, FeatureMSEConfig, TapConfig
from stillroom.objectives.connectors import shape_of
from stillroom.objectives.meeting import Meeting

TapConfigT = TypeVar("TapConfigT", bound=TapConfig)
FeatureConfigT = TypeVar("FeatureConfigT", bound=FeatureConfig)


class TapObjective(Objective[TapConfigT]):
    """What objectives that read the student's features share: pairs of taps, chosen when they meet it, and connectors.

    The connectors learn with the student and are no part of it. They are batch-normed where they end in maps, so that
    micro-batches then normalise by themselves, as the student's own batch norms do.

    Attributes:
        pairs: (the teacher's tap, the student's), shallow to deep where found, else as the recipe names them.
        connectors: from the student's features to the teacher's shape, one a pair. In a list, as names of taps hold
            dots, which names of modules cannot.
    """

    reads = Reads(teacher=True)
    verb: ClassVar[str] = "compares"

    pairs: tuple[tuple[Tap, Tap], ...] = ()
    connectors: nn.ModuleList

    def meet(self, meeting: Meeting) -> None:
        """Choose the pairs and make their connectors.

        Raises:
            BadInput: no such tap, no model as teacher, or features that cannot be brought to the teacher's shape.
        """
        where = f"objectives.{self.name}"
        self.pairs = self.choose(meeting, f"{where}.taps")
        self.reads = self.read(meeting)
        kind = self.config.connector
        made = [
            meeting.connector(student, teacher, kind, field=f"{where}.connector") for teacher, student in self.pairs
        ]
        self.connectors = nn.ModuleList(made)

    def choose(self, meeting: Meeting, field: str) -> tuple[tuple[Tap, Tap], ...]:
        """The pairs that the options mean; ``field`` is what messages call them."""
        return meeting.choose(self.config.taps, field=field)

    def read(self, meeting: Meeting) -> Reads:
        """What it reads, now that its pairs are known."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it reads")

    def mapped(self, lesson: Lesson) -> Iterator[tuple[Tap, Tensor]]:
        """Of each pair: the teacher's tap, and the student's features in the shape of what is read there, [B, …].

        Raises:
            RuntimeError: it has not met teacher and student.
        """
        if not self.pairs:
            raise RuntimeError(f"objective {self.name!r} has not met teacher and student: call meet() first")
        for (teacher, student), connector in zip(self.pairs, self.connectors, strict=True):
            yield teacher, connector(lesson.student.features[student.name])

    def told(self) -> str:
        """What it does with which taps, in a line."""
        pairs = (f"{s.name} {shape_of(s)} → {t.name} {shape_of(t)}" for t, s in self.pairs)
        return f"{self.name} {self.verb} (student → teacher) " + ", ".join(pairs)


class FeatureObjective(TapObjective[FeatureConfigT]):
    """What objectives that compare features with the teacher's have in common.

    A subclass takes ``self.features(lesson)`` and needs to know nothing of names and shapes.
    """

    def read(self, meeting: Meeting) -> Reads:
        """The features of both at the pairs."""
        return Reads(
            teacher=True,
            teacher_features=tuple(teacher.name for teacher, _ in self.pairs),
            student_features=tuple(student.name for _, student in self.pairs),
        )

    def features(self, lesson: Lesson) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each pair: the student's features through the connector, and the teacher's, of one shape [B, …].

        Raises:
            RuntimeError: it has not met teacher and student.
        """
        for teacher, mapped in self.mapped(lesson):
            yield mapped, lesson.teacher_features[teacher.name]


class FeatureMSE(FeatureObjective[FeatureMSEConfig]):
    """Mean squared error between features, the mean over the pairs of taps; see :func:`functional.feature_mse`."""

    paper = Paper("FitNets: Hints for Thin Deep Nets", "1412.6550", "romero2015fitnets")

    def forward(self, lesson: Lesson) -> Tensor:
        """The loss of one batch."""
        return torch.stack([functional.feature_mse(*pair) for pair in self.features(lesson)]).mean()
