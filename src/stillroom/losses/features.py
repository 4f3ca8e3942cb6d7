"""Losses that compare features at taps: which taps, and through which connectors, they find out by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from stillroom.losses import functional
from stillroom.losses.base import Citation, Loss, LossInputs, Requires
from stillroom.losses.config import FeatureConfig, FeatureMSEConfig, TapConfig
from stillroom.losses.connectors import shape_of
from stillroom.losses.setup_context import SetupContext
from stillroom.models.taps import Tap

TapConfigT = TypeVar("TapConfigT", bound=TapConfig)
FeatureConfigT = TypeVar("FeatureConfigT", bound=FeatureConfig)


class TapLoss(Loss[TapConfigT]):
    """What losses that read the student's features share: pairs of taps, chosen when they meet it, and connectors.

    The connectors learn with the student and are no part of it. They are batch-normed where they end in maps, so that
    micro-batches then normalise by themselves, as the student's own batch norms do.

    Attributes:
        pairs: (the teacher's tap, the student's), shallow to deep where found, else as the recipe names them.
        connectors: from the student's features to the teacher's shape, one a pair. In a list, as names of taps hold
            dots, which names of modules cannot.
    """

    requires = Requires(teacher=True)
    verb: ClassVar[str] = "compares"

    pairs: tuple[tuple[Tap, Tap], ...] = ()
    connectors: nn.ModuleList

    def setup(self, setup_context: SetupContext) -> None:
        """Choose the pairs and make their connectors.

        Raises:
            BadInput: no such tap, no model as teacher, or features that cannot be brought to the teacher's shape.
        """
        where = f"losses.{self.name}"
        self.pairs = self.choose(setup_context, f"{where}.taps")
        self.requires = self.read(setup_context)
        kind = self.config.connector
        made = [
            setup_context.connector(student, teacher, kind, field=f"{where}.connector")
            for teacher, student in self.pairs
        ]
        self.connectors = nn.ModuleList(made)

    def choose(self, setup_context: SetupContext, field: str) -> tuple[tuple[Tap, Tap], ...]:
        """The pairs that the options mean; ``field`` is what messages call them."""
        return setup_context.choose(self.config.taps, field=field)

    def read(self, setup_context: SetupContext) -> Requires:
        """What it reads, now that its pairs are known."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it reads")

    def mapped(self, inputs: LossInputs) -> Iterator[tuple[Tap, Tensor]]:
        """Of each pair: the teacher's tap, and the student's features in the shape of what is read there, [B, …].

        Raises:
            RuntimeError: it has not met teacher and student.
        """
        if not self.pairs:
            raise RuntimeError(f"loss {self.name!r} has not met teacher and student: call setup() first")
        for (teacher, student), connector in zip(self.pairs, self.connectors, strict=True):
            yield teacher, connector(inputs.student.features[student.name])

    def told(self) -> str:
        """What it does with which taps, in a line."""
        pairs = (f"{s.name} {shape_of(s)} → {t.name} {shape_of(t)}" for t, s in self.pairs)
        return f"{self.name} {self.verb} (student → teacher) " + ", ".join(pairs)


class FeatureLoss(TapLoss[FeatureConfigT]):
    """What losses that compare features with the teacher's have in common.

    A subclass takes ``self.features(inputs)`` and needs to know nothing of names and shapes.
    """

    def read(self, setup_context: SetupContext) -> Requires:
        """The features of both at the pairs."""
        return Requires(
            teacher=True,
            teacher_features=tuple(teacher.name for teacher, _ in self.pairs),
            student_features=tuple(student.name for _, student in self.pairs),
        )

    def features(self, inputs: LossInputs) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each pair: the student's features through the connector, and the teacher's, of one shape [B, …].

        Raises:
            RuntimeError: it has not met teacher and student.
        """
        for teacher, mapped in self.mapped(inputs):
            yield mapped, inputs.teacher_features[teacher.name]


class FeatureMSE(FeatureLoss[FeatureMSEConfig]):
    """Mean squared error between features, the mean over the pairs of taps; see :func:`functional.feature_mse`."""

    citation = Citation("FitNets: Hints for Thin Deep Nets", "1412.6550", "romero2015fitnets")

    def forward(self, inputs: LossInputs) -> Tensor:
        """The loss of one batch."""
        return torch.stack([functional.feature_mse(*pair) for pair in self.features(inputs)]).mean()
