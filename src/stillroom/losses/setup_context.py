"""What a loss can see of teacher and student before the training: their taps, pairs of taps, connectors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from stillroom.config import Config
from stillroom.data.tokens import is_tokens
from stillroom.errors import BadInput, nearest
from stillroom.losses.connectors import connector
from stillroom.models.reader import FEATURES, LOGITS, PRE
from stillroom.models.taps import Tap, find_taps, pair_taps
from stillroom.randomness import seed_rng
from stillroom.tasks import Task


class TapPair(Config):
    """Two taps whose features are compared, both named."""

    teacher: str = Field(min_length=1, description="Tap of the teacher: a module's path, PATH:pre, or features.")
    student: str = Field(min_length=1, description="The like of the student.")


@dataclass(frozen=True)
class TrainingSamples:
    """The training samples as losses see them by their index."""

    count: int  # the indices are below it
    index: Tensor  # those that are trained on, int64 [N]
    labels: Tensor  # their classes, int64 [N]


@dataclass(frozen=True)
class ModelInfo:
    """One of the two models; it is traced when its taps are first asked for."""

    model: nn.Module  # the model; it is left as it was
    example: Callable[[], Tensor]  # makes a small input batch for the model, [B, …], on its device
    field: Literal["teacher", "student"]
    sample: Callable[[int], Tensor] | None = None  # one of up to so many training images; left out: `example`

    @cached_property
    def taps(self) -> tuple[Tap, ...]:
        """The taps that were found, shallow to deep."""
        return find_taps(self.model, self.example(), field=self.field)

    def tap(self, name: str) -> Tap:
        """A tap by its name, also one that :attr:`taps` does not hold.

        Raises:
            BadInput: the model has no such module, or its output is not one tensor [B, …].
        """
        return find_taps(self.model, self.example(), [name], field=self.field)[0]


class SetupContext:
    """Teacher and student before the training, for :meth:`Loss.setup`.

    Args:
        student: the model that learns.
        teacher: the model that teaches, where it is one that can be run here.
        num_classes: K.
        seed: the run's, for the connectors.
        logits: folder of precomputed teacher logits, if these take the place of a model.
        samples: the training samples.
        members: the teachers whose mean takes the place of a model.
        task: what the labels are.

    >>> import torch
    >>> net = lambda width: nn.Sequential(nn.Flatten(), nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))
    >>> images = lambda: torch.zeros(2, 1, 2, 2)
    >>> student, teacher = ModelInfo(net(5), images, "student"), ModelInfo(net(8), images, "teacher")
    >>> context = SetupContext(student, teacher, num_classes=3, seed=0)
    >>> [(teacher.name, teacher.shape, student.shape) for teacher, student in context.choose_pairs("features")]
    [('features', (8,), (5,))]
    """

    def __init__(
        self,
        student: ModelInfo,
        teacher: ModelInfo | None,
        *,
        num_classes: int,
        seed: int,
        logits: str | None = None,
        samples: TrainingSamples | None = None,
        members: Sequence[str] = (),
        task: Task = "single_label",
    ) -> None:
        self.student = student
        self._teacher = teacher
        self.num_classes = num_classes
        self.seed = seed
        self.samples = samples
        self.task = task
        self.loss = "a loss"  # which is set up, for messages
        self._logits = logits
        self._members = tuple(members)

    @property
    def teacher(self) -> ModelInfo:
        """The model that teaches.

        Raises:
            BadInput: there is none.
        """
        if self._teacher is None:
            expected = f"a model: {self.loss} reads more than its logits"
            if self._members:
                raise BadInput("teachers.NAME.members", list(self._members), f"{expected}; name one of the members")
            if self._logits is not None:
                raise BadInput("teacher.logits", self._logits, expected)
            raise BadInput("teacher", None, expected)
        return self._teacher

    @cached_property
    def is_text(self) -> bool:
        """Whether the models take token ids, of which some stand for padding."""
        return is_tokens(self.student.example())

    @cached_property
    def pairs(self) -> tuple[tuple[Tap, Tap], ...]:
        """(teacher's tap, student's tap) of equal depth, shallow to deep; the logits are the last pair."""
        return tuple(pair_taps(self.teacher.taps, self.student.taps))

    def choose_pairs(self, taps: str | Sequence[str | TapPair], *, field: str = "taps") -> tuple[tuple[Tap, Tap], ...]:
        """The pairs that a recipe's ``taps`` mean.

        Args:
            taps: ``features`` for the penultimate pair, ``all`` for every pair but the logits, or a list. A name in it
                is the teacher's tap, paired with the student's opposite it; ``:pre`` reads both before their last
                activation.
            field: the option's name in messages.

        Returns:
            (teacher's, student's).

        Raises:
            BadInput: there are none, or not by these names.
        """
        if not isinstance(taps, str):
            named = tuple(self._named(tap, field) for tap in taps)
            for place, (teacher, student) in enumerate(named):
                if (teacher, student) in named[:place]:
                    pair = {"teacher": teacher.name, "student": student.name}
                    raise BadInput(field, pair, "each pair of taps once, but this is there twice, by two names")
            return named
        found = [pair for pair in self.pairs if pair[0].name != LOGITS and (taps == "all" or pair[0].name == FEATURES)]
        if not found:
            names = {
                each.field: ", ".join(tap.name for tap in each.taps if tap.name != LOGITS) or "none"
                for each in (self.teacher, self.student)
            }
            has = "; ".join(f"the {model} has {taps}" for model, taps in names.items())
            raise BadInput(
                field, taps, f"[{{teacher: NAME, student: NAME}}]: no such taps are opposite each other: {has}"
            )
        return tuple(found)

    def connector(
        self, student: Tap, teacher: Tap, kind: Literal["auto", "identity"] = "auto", *, field: str = "connector"
    ) -> nn.Module:
        """A new connector; its initial weights depend on the run's seed and on the taps' names and shapes alone.

        So all losses and methods that connect the same taps begin with the same weights.

        Raises:
            BadInput: the student's features cannot be brought to the teacher's shape.
        """
        with self.seeded(student.name, teacher.name):
            return connector(student, teacher, kind=kind, field=field)

    def seeded(self, *names: str) -> AbstractContextManager[None]:
        """A block whose draws, of a loss's initial weights, depend on the run's seed and some names alone."""
        address = hashlib.blake2b("\n".join(names).encode(), digest_size=8).digest()
        return seed_rng(self.seed, "connector-init", int.from_bytes(address, "little"))

    def _named(self, tap: str | TapPair, field: str) -> tuple[Tap, Tap]:
        if isinstance(tap, TapPair):
            names = tap.teacher, tap.student
        else:
            plain = tap.removesuffix(PRE)
            opposite = {teacher.name: student.name for teacher, student in self.pairs if teacher.name != LOGITS}
            if plain not in opposite:
                known = nearest(plain, opposite)
                expected = f"a tap of the teacher with one of the student opposite it ({known})"
                raise BadInput(field, tap, f"{expected}, or {{teacher: NAME, student: NAME}}")
            names = tap, opposite[plain] + tap[len(plain) :]
        try:
            return self.teacher.tap(names[0]), self.student.tap(names[1])
        except BadInput as error:
            raise BadInput(field, error.value, error.expected) from None
