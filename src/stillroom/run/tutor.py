"""Whoever teaches a run, as the run sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stillroom.data.images import ImageSet
from stillroom.data.loader import BatchLoader
from stillroom.models.prepared import PreparedModel, size_of
from stillroom.teachers.config import TeacherConfig
from stillroom.train.evaluation import score
from stillroom.train.folder import RunFolder
from stillroom.train.loop import Teacher


@dataclass
class Tally:
    """How often a teacher was asked.

    Attributes:
        answers: images whose answers the run uses, each view counted: in training, for the cache, of the test split.
        checks: images asked about again, to see that what is kept is still what the teacher says.
    """

    answers: int = 0
    checks: int = 0

    def taken(self) -> Tally:
        """What was counted since this was last called."""
        since = Tally(self.answers, self.checks)
        self.answers = self.checks = 0
        return since


class Tutor(ABC):
    """Whoever teaches, as a run sees it.

    Attributes:
        name: what reports call it.
        fingerprint: SHA-256 of its weights or answers; a save of a run taught by another is refused.
        prepared: the model, where it can be run here.
        tally: how often it was asked so far.
    """

    name: str
    fingerprint: str
    prepared: PreparedModel | None = None

    def __init__(self) -> None:
        self.tally = Tally()

    @abstractmethod
    def on_test(self) -> Tensor | None:
        """Its logits for the test split, float32 [M, K]; None where nobody knows them."""

    @abstractmethod
    def in_training(self, loader: BatchLoader, epochs: int, folder: RunFolder) -> Teacher:
        """What answers the batches of the training, which ``loader`` gives for so many epochs."""

    def resolve_config(self, config: TeacherConfig) -> TeacherConfig:
        """Its config as it is written beside the run."""
        return config

    def facts(self, logits: Tensor | None, test: ImageSet) -> dict[str, Any]:
        """What the summary tells of it: of one whose answers nobody knows, no more than who it is."""
        scored = score(logits, test.labels).as_dict() if logits is not None else {}
        sizes = size_of(self.prepared, test) if self.prepared is not None and logits is not None else {}
        return {"model": self.name, **scored, **sizes, "weights_hash": self.fingerprint}
