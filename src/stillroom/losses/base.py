"""The form that every loss has: what it reads, whose idea it is, one scalar from a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, get_args, get_origin

from pydantic import ValidationError
from torch import Tensor, nn

from stillroom.config import bad_input
from stillroom.losses.config import LossConfig
from stillroom.teachers.fisher import FisherOf
from stillroom.teachers.knowledge import ModelOutput

if TYPE_CHECKING:
    from stillroom.losses.setup_context import SetupContext

ConfigT = TypeVar("ConfigT", bound=LossConfig)


@dataclass(frozen=True)
class Citation:
    """Where a loss comes from."""

    title: str
    arxiv: str
    bibtex: str


@dataclass(frozen=True)
class Requires:
    """What must be said for a loss to be computed; the run provides it and nothing more.

    Attributes:
        teacher: the teacher's logits; without any such loss no teacher is run during training.
        labels: the true labels.
        index: the samples' indices in the training set.
        teacher_features: modules of the teacher whose outputs are read, such as ``layer2``; with ``teacher``.
        student_features: the like of the student.
        tails: taps from which on the teacher is run by the loss; with ``teacher``.
        heads: those of them that must be one linear layer, as its weights are read.
        fishers: diagonals of the teacher's Fisher matrix in its features; their taps are in ``teacher_features``.
        fisher_means: those of them whose mean over the training set is read, too.
    """

    teacher: bool = False
    labels: bool = False
    index: bool = False
    teacher_features: tuple[str, ...] = ()
    student_features: tuple[str, ...] = ()
    tails: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    fishers: tuple[FisherOf, ...] = ()
    fisher_means: tuple[FisherOf, ...] = ()

    def __post_init__(self) -> None:
        for name in ("teacher_features", "tails", "fishers"):
            if getattr(self, name) and not self.teacher:
                raise ValueError(f"{name} without teacher=True: no teacher would be asked")
        if not set(self.heads) <= set(self.tails):
            raise ValueError("heads that are not in tails")
        if alone := {of.tap for of in self.fishers} - set(self.teacher_features):
            raise ValueError(f"fishers of {sorted(alone)}, which are not in teacher_features")
        if not set(self.fisher_means) <= set(self.fishers):
            raise ValueError("fisher_means of weights that are not in fishers")


@dataclass(frozen=True)
class LossInputs:
    """One batch as a loss sees it.

    Attributes:
        student: the student's answer.
        teacher: the teacher's answer, where some loss reads it.
        labels: int64 [B].
        index: the samples' indices in the training set, int64 [B].
        progress: fraction of the training done, in [0, 1).
    """

    student: ModelOutput
    teacher: ModelOutput | None
    labels: Tensor
    index: Tensor
    progress: float

    @property
    def teacher_logits(self) -> Tensor:
        """The teacher's logits, [B, K].

        Raises:
            RuntimeError: there is no teacher; a loss that reads one must declare it.
        """
        return self.taught.logits

    @property
    def teacher_features(self) -> Mapping[str, Tensor]:
        """What the teacher gave at the taps that the losses read, [B, …] each.

        Raises:
            RuntimeError: there is no teacher; a loss that reads one must declare it.
        """
        return self.taught.features

    @property
    def taught(self) -> ModelOutput:
        """All that the teacher says, for :meth:`ModelOutput.tail` and :meth:`ModelOutput.fisher`.

        Raises:
            RuntimeError: there is no teacher; a loss that reads one must declare it.
        """
        if self.teacher is None:
            raise RuntimeError("this loss reads the teacher but does not declare Requires(teacher=True)")
        return self.teacher


class Loss(nn.Module, Generic[ConfigT]):
    """One term of the loss: a pure function with its options, its paper and what it reads.

    Subclass it with your own config as the type argument, declare ``reads`` (and ``paper``), write ``forward``::

        class MarginConfig(LossConfig):
            name: str = "margin"
            margin: float = 1.0

        class Margin(Loss[MarginConfig]):
            requires = Requires(teacher=True)

            def forward(self, inputs: LossInputs) -> Tensor:
                return margin(inputs.student.logits, inputs.teacher_logits, margin=self.config.margin)

    Attributes:
        paper: where the idea comes from, if anywhere.
        reads: what must be said for it to be computed; one that looks for its taps itself says it once it has met
            teacher and student.
        per_sample: the batch's loss is the mean of its samples' losses, so that micro-batches may be accumulated.
    """

    Config: ClassVar[type[LossConfig]] = LossConfig
    citation: ClassVar[Citation | None] = None
    requires: Requires = Requires()
    per_sample: ClassVar[bool] = True

    config: ConfigT

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in getattr(cls, "__orig_bases__", ()):
            arguments = get_args(base)
            origin = get_origin(base)
            family = isinstance(origin, type) and issubclass(origin, Loss)
            if family and arguments and isinstance(arguments[0], type):
                cls.Config = arguments[0]

    def __init__(self, config: ConfigT | None = None, **options: Any) -> None:
        super().__init__()
        if config is None:
            try:
                config = self.Config.model_validate(options)  # type: ignore[assignment]
            except ValidationError as error:
                raise bad_input(error, self.Config, type(self).__name__) from None
        elif options:
            raise TypeError("a loss takes a config or its options, not both")
        assert config is not None
        self.config = config

    @property
    def name(self) -> str:
        """The name under which its loss is logged."""
        return self.config.name

    def setup(self, setup_context: SetupContext) -> None:
        """See teacher and student before the training: choose taps, set ``reads``, make connectors. Here: nothing.

        A run calls it once, before anything is trained, and takes ``reads`` and the parameters after it. Keep nothing
        of the setup context's models: what a loss holds is trained, saved and moved with it.
        """

    def forward(self, inputs: LossInputs) -> Tensor:
        """The term's value for one batch, before its weight: a scalar."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")
