"""Objectives that compare features at taps: which taps, and through which connectors, they find out by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from stillroom.models.finding import Tap
from stillroom.objectives import functional
from stillroom.objectives.base import Lesson, Objective, Paper, Reads
from stillroom.objectives.config import FeatureConfig, FeatureMSEConfig
from stillroom.objectives.connectors import shape_of
from stillroom.objectives.meeting import Meeting

FeatureConfigT = TypeVar("FeatureConfigT", bound=FeatureConfig)


class FeatureObjective(Objective[FeatureConfigT]):
    """What objectives on features have in common: pairs of taps, chosen when they meet the models, and connectors.

    A subclass takes ``self.features(lesson)`` and needs to know nothing of names and shapes. The connectors learn with
    the student and are no part of it. They are batch-normed where they end in maps, so that micro-batches then
    normalise by themselves, as the student's own batch norms do.

    Attributes:
        pairs: (the teacher's tap, the student's), shallow to deep where found, else as the recipe names them.
        connectors: from the student's features to the teacher's shape, one a pair. In a list, as names of taps hold
            dots, which names of modules cannot.
    """

    reads = Reads(teacher=True)

    pairs: tuple[tuple[Tap, Tap], ...] = ()
    connectors: nn.ModuleList

    def meet(self, meeting: Meeting) -> None:
        """Choose the pairs and make their connectors.

        Raises:
            BadInput: no such tap, no model as teacher, or features that cannot be brought to the teacher's shape.
        """
        where = f"objectives.{self.name}"
        self.pairs = meeting.choose(self.config.taps, field=f"{where}.taps")
        self.reads = Reads(
            teacher=True,
            teacher_features=tuple(teacher.name for teacher, _ in self.pairs),
            student_features=tuple(student.name for _, student in self.pairs),
        )
        kind = self.config.connector
        made = [
            meeting.connector(student, teacher, kind, field=f"{where}.connector") for teacher, student in self.pairs
        ]
        self.connectors = nn.ModuleList(made)

    def features(self, lesson: Lesson) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each pair: the student's features through the connector, and the teacher's, of one shape [B, …].

        Raises:
            RuntimeError: it has not met teacher and student.
        """
        if not self.pairs:
            raise RuntimeError(f"objective {self.name!r} has not met teacher and student: call meet() first")
        for (teacher, student), connector in zip(self.pairs, self.connectors, strict=True):
            yield connector(lesson.student.features[student.name]), lesson.teacher_features[teacher.name]

    def told(self) -> str:
        """What it compares, in a line."""
        pairs = (f"{s.name} {shape_of(s)} → {t.name} {shape_of(t)}" for t, s in self.pairs)
        return f"{self.name} compares (student → teacher) " + ", ".join(pairs)


class FeatureMSE(FeatureObjective[FeatureMSEConfig]):
    """Mean squared error between features, the mean over the pairs of taps; see :func:`functional.feature_mse`."""

    paper = Paper("FitNets: Hints for Thin Deep Nets", "1412.6550", "romero2015fitnets")

    def forward(self, lesson: Lesson) -> Tensor:
        """The loss of one batch."""
        return torch.stack([functional.feature_mse(*pair) for pair in self.features(lesson)]).mean()
