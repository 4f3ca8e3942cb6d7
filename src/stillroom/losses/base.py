"""What every loss has: options with a weight, a citation, what it requires, its flags, one scalar from a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, get_args, get_origin

import torch
from pydantic import Field, SerializerFunctionWrapHandler, Tag, ValidationError, model_serializer, model_validator
from torch import Tensor, nn

from stillroom.config import Config, bad_input, by_shape
from stillroom.data.loader import MixedLabels
from stillroom.errors import BadInput
from stillroom.losses.numerics import batch_mean
from stillroom.losses.setup_context import SetupContext
from stillroom.tasks import Task
from stillroom.teachers.fisher import FisherOf
from stillroom.teachers.output import ModelOutput

Family = Literal["labels", "logits", "features", "relations", "gradients", "other"]
FAMILIES: tuple[Family, ...] = get_args(Family)
Weighing = Literal["identity", "diagonal", "full", "exact"]

Temperature = Annotated[float, Field(gt=0, description="Temperature τ that softens the logits; 1 leaves them.")]


class WeightSchedule(Config):
    """A weight that moves from ``start`` to ``end`` between two points of the training."""

    shape: Literal["linear", "cosine", "step"] = Field(
        "linear", description="Way from start to end; step jumps at `until`."
    )
    start: float = Field(ge=0, description="Weight up to `begin`.")
    end: float = Field(ge=0, description="Weight from `until` on.")
    begin: float = Field(0.0, ge=0, le=1, description="Where the change begins, as a fraction of the training.")
    until: float = Field(1.0, ge=0, le=1, description="Where the change ends, as a fraction of the training.")

    @model_validator(mode="after")
    def _ordered(self) -> WeightSchedule:
        if self.until < self.begin:
            raise ValueError(f"until of at least begin ({self.begin:g})")
        return self

    def at(self, progress: float) -> float:
        """The weight at a fraction of the training.

        >>> WeightSchedule(start=0, end=1, begin=0, until=0.5).at(0.25)
        0.5
        """
        if progress >= self.until:
            return self.end
        if progress <= self.begin or self.shape == "step":
            return self.start
        part = (progress - self.begin) / (self.until - self.begin)
        if self.shape == "cosine":
            part = (1 - math.cos(math.pi * part)) / 2
        return self.start + (self.end - self.start) * part


Weight = Annotated[
    Annotated[float, Field(ge=0), Tag("tag:number")] | Annotated[WeightSchedule, Tag("tag:table")], by_shape("number")
]


class LossConfig(Config):
    """The options that every loss has: a name, and the weight of its term in the sum."""

    # Options that are not written when they are None, so that a recipe without them keeps its bytes and its hash.
    left_out: ClassVar[tuple[str, ...]] = ("teacher",)

    name: str
    weight: Weight = Field(
        1.0, description="Factor of this term in the loss: a number, or a schedule over the training."
    )
    teacher: str | None = Field(
        None, description="Name in `teachers` of the teacher that this term reads; left out: the only one."
    )

    @model_validator(mode="before")
    @classmethod
    def _target_fits(cls, content: Any) -> Any:
        if isinstance(content, dict) and "target" in content and "target" not in cls.model_fields:
            raise ValueError("no target: this loss does not compare distributions over the classes, as kl does")
        return content

    @model_serializer(mode="wrap")
    def _leave_out_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        return {key: value for key, value in written.items() if value is not None or key not in self.left_out}

    @model_validator(mode="after")
    def _weight_counts(self) -> LossConfig:
        if not self.largest_weight:
            raise ValueError("a weight above 0; leave a term out that should not count")
        return self

    def weight_at(self, progress: float) -> float:
        """The weight at a fraction of the training (0 at the first step, towards 1 at the last)."""
        return self.weight.at(progress) if isinstance(self.weight, WeightSchedule) else self.weight

    @property
    def key(self) -> str:
        """What tells the term from the others of a recipe: its name, or ``kl@NAME`` where it names its teacher."""
        return self.name if self.teacher is None else f"{self.name}@{self.teacher}"

    @property
    def has_schedule(self) -> bool:
        """Whether the weight changes over the training."""
        return isinstance(self.weight, WeightSchedule)

    @property
    def largest_weight(self) -> float:
        """The weight, the larger end of a schedule."""
        return max(self.weight.start, self.weight.end) if isinstance(self.weight, WeightSchedule) else self.weight

    @property
    def softening_temperature(self) -> float | None:
        """The temperature τ that softens the teacher's logits; None where none does."""
        value = getattr(self, "temperature", None)
        return float(value) if isinstance(value, int | float) else None

    @property
    def kl_shares(self) -> tuple[float, float]:
        """Of a ``kl_like`` loss: factors of cross-entropy and of τ²·KL in it, both on the student's logits."""
        return 0.0, 1.0

    @property
    def cached_features(self) -> int:
        """Roughly how many features of the teacher it reads in addition to the logits; used to order work."""
        return 0


ConfigT = TypeVar("ConfigT", bound=LossConfig)


@dataclass(frozen=True)
class Citation:
    """Where a loss was published.

    Attributes:
        title: of the paper.
        arxiv: its number; empty where it is not there.
        bibtex: a key.
        venue: where it appeared; needed of a paper that is not on arXiv.
    """

    title: str
    arxiv: str
    bibtex: str
    venue: str = ""

    def __str__(self) -> str:
        return f"{self.title} ({f'arXiv {self.arxiv}' if self.arxiv else self.venue})"


@dataclass(frozen=True)
class Requires:
    """What a loss requires; the run provides this and nothing more.

    Attributes:
        teacher: the teacher's logits; if no loss requires them, no teacher is run during training.
        labels: the true labels.
        index: the samples' indices in the training set.
        teacher_features: modules of the teacher whose outputs are read, such as ``layer2``; with ``teacher``.
        student_features: modules of the student whose outputs are read.
        tails: taps from which on the loss runs the teacher; with ``teacher``.
        heads: those of ``tails`` that must be one linear layer, because its weights are read.
        fishers: diagonals of the teacher's Fisher matrix in its features; their taps are in ``teacher_features``.
        fisher_means: those of ``fishers`` whose mean over the training set is read, too.
        class_means: temperatures at which the mean answer to the training images of each class is read.
        input_gradient: the loss takes the student's gradient in its images, by :meth:`LossInputs.input_gradient`.
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
    class_means: tuple[float, ...] = ()
    input_gradient: bool = False

    def __post_init__(self) -> None:
        for name in ("teacher_features", "tails", "fishers", "class_means"):
            if getattr(self, name) and not self.teacher:
                raise ValueError(f"{name} without teacher=True: no teacher would be run")
        if not set(self.heads) <= set(self.tails):
            raise ValueError("heads that are not in tails")
        if missing := {of.tap for of in self.fishers} - set(self.teacher_features):
            raise ValueError(f"fishers of {sorted(missing)}, which are not in teacher_features")
        if not set(self.fisher_means) <= set(self.fishers):
            raise ValueError("fisher_means of weights that are not in fishers")


@dataclass(frozen=True)
class LossInputs:
    """One batch as a loss sees it.

    Attributes:
        student: the student's output.
        teacher: the teacher's output; None if no loss requires it.
        labels: class numbers, int64 [B]; of multi-label data 0 or 1, of a regression numbers, float32 [B, K].
        index: the samples' indices in the training set, int64 [B].
        progress: fraction of the training done, in [0, 1).
        mixed: the labels of the images that these are mixed with, and the shares; None where they are not.
        images: what the student's output was computed from, [B, C, H, W]; None if no loss takes a gradient in them.
        white: the value of a white pixel in ``images``, 255 or 1.
        mask: of texts, where there is a token, bool [B, L]; None of images.
    """

    student: ModelOutput
    teacher: ModelOutput | None
    labels: Tensor
    index: Tensor
    progress: float
    images: Tensor | None = None
    white: float = 1.0
    mask: Tensor | None = None
    mixed: MixedLabels | None = None

    def label_mean(self, per_sample: Callable[[Tensor], Tensor]) -> Tensor:
        """The batch's mean of a loss that is linear in the label, of mixed images weighed over their two labels.

        Args:
            per_sample: from labels, int64 [B], to each sample's loss, [B].
        """
        values = per_sample(self.labels)
        if self.mixed is not None:
            share = self.mixed.share
            values = share * values + (1 - share) * per_sample(self.mixed.partners)
        return batch_mean(values)

    def input_gradient(self, value: Tensor) -> Tensor:
        """Gradient of a scalar of the student in its images, [B, C, H, W], per pixel/white; a loss can be made of it.

        Raises:
            RuntimeError: no loss declared it.
        """
        if self.images is None:
            raise RuntimeError("nothing declares that the images' gradient is read: Requires(input_gradient=True)")
        return self.white * torch.autograd.grad(value, self.images, create_graph=True)[0]

    @property
    def teacher_output(self) -> ModelOutput:
        """The teacher's output, with its features, tails and Fisher weights.

        Raises:
            RuntimeError: there is no teacher; a loss that reads one must declare it.
        """
        if self.teacher is None:
            raise RuntimeError("this loss reads the teacher but does not declare Requires(teacher=True)")
        return self.teacher

    @property
    def teacher_logits(self) -> Tensor:
        """The teacher's logits, [B, K]; raises like :attr:`teacher_output`.

        Raises:
            BadInput: the teacher gives embeddings alone.
        """
        if not self.teacher_output.has_logits:
            raise BadInput("teacher.embeddings", True, "a loss on features or relations: this teacher has no logits")
        return self.teacher_output.logits

    @property
    def teacher_features(self) -> Mapping[str, Tensor]:
        """The teacher's features by tap, [B, …] each; raises like :attr:`teacher_output`."""
        return self.teacher_output.features


class Loss(nn.Module, Generic[ConfigT]):
    """One term of the training loss: a pure function with its options, its citation and what it requires.

    Subclass it with a config as the type argument, declare ``requires`` (and ``citation``), write ``forward``::

        class MarginConfig(LossConfig):
            name: str = "margin"
            margin: float = 1.0

        class Margin(Loss[MarginConfig]):
            requires = Requires(teacher=True)

            def forward(self, inputs: LossInputs) -> Tensor:
                return margin(inputs.student.logits, inputs.teacher_logits, margin=self.config.margin)

    The class attributes below are flags: other code asks them, never the class or its name.

    Attributes:
        citation: where it was published, if anywhere.
        other_names: what papers and other libraries call it, as a recipe's name of it is refused and explained.
        family: what it compares: labels, logits, features, relations between samples, or gradients (also features
            weighed by gradients).
        requires: what the run must provide; a loss that chooses its taps itself sets it in :meth:`setup`.
        per_sample: the batch's loss is the mean of its samples' losses, so that micro-batches may be accumulated.
        has_temperature: it has the option ``temperature``, which softens logits; set from the config.
        accepts_target: it has the option ``target``, the part of the teacher's answer to teach; set from the config.
        kl_like: its teacher term is τ²·KL to the softened answer, so that its gradient does not fade with τ.
        rescaling_part: the part of the loss ``a·CE + b·τ²·KL`` that it is, by whose gradients the rescaling ω is
            defined; None of any other loss.
        weighings: how exactly it weighs the gap to the teacher as a member of the KL family, by default first.
        smoothing_option: the option that is the share of the labels spread over all classes.
        mixes_labels: it weighs the two labels of an image that mixup or cutmix made, by :meth:`LossInputs.label_mean`.
        label_free_option: the option, and its value, that leaves the labels out of a loss that otherwise reads them.
        local_buffers: its buffers that every process computes alike, so that none is sent from one to the others.
        reuses_head: the student is to end in the teacher's last layer (:mod:`stillroom.models.reused_head`).
        reads_attention: it compares queries, keys or values of blocks; models without such layers refuse it.
        tasks: what the labels may be for it to make sense: :data:`stillroom.tasks.TASKS`.
        pairs: the taps it compares, (teacher's, student's), set in :meth:`setup`.
    """

    Config: ClassVar[type[LossConfig]] = LossConfig
    citation: ClassVar[Citation | None] = None
    other_names: ClassVar[tuple[str, ...]] = ()
    family: ClassVar[Family] = "other"
    requires: Requires = Requires()
    per_sample: ClassVar[bool] = True
    has_temperature: ClassVar[bool] = False
    accepts_target: ClassVar[bool] = False
    kl_like: ClassVar[bool] = False
    rescaling_part: ClassVar[Literal["labels", "teacher"] | None] = None
    weighings: ClassVar[tuple[Weighing, ...]] = ()
    smoothing_option: ClassVar[str | None] = None
    mixes_labels: ClassVar[bool] = False
    label_free_option: ClassVar[tuple[str, Any] | None] = None
    local_buffers: ClassVar[tuple[str, ...]] = ()
    reuses_head: ClassVar[bool] = False
    reads_attention: ClassVar[bool] = False
    tasks: ClassVar[tuple[Task, ...]] = ("single_label",)
    pairs: tuple[tuple[Any, Any], ...] = ()

    config: ConfigT

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in getattr(cls, "__orig_bases__", ()):
            arguments, origin = get_args(base), get_origin(base)
            is_loss = isinstance(origin, type) and issubclass(origin, Loss)
            if is_loss and arguments and isinstance(arguments[0], type):
                cls.Config = arguments[0]
                cls.has_temperature = "temperature" in cls.Config.model_fields
                cls.accepts_target = "target" in cls.Config.model_fields

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
        """The name under which its value is logged: ``kl``, or ``kl@NAME`` where the config names its teacher."""
        return self.config.key

    def setup(self, setup_context: SetupContext) -> None:
        """Choose taps, set ``requires``, make connectors, from what teacher and student are. Here: nothing.

        A run calls it once, before the training, and takes ``requires`` and the parameters afterwards. Keep no
        reference to the models: what a loss holds is trained, saved and moved with it.
        """

    def after_step(self) -> None:
        """Update what it keeps of the batch, such as a memory bank; called after each optimizer step."""

    def target_logits(self, inputs: LossInputs) -> Tensor:
        """The logits to learn, [B, K]: the teacher's, or those whose softened answer is the ``target``."""
        return inputs.teacher_logits

    def describe_taps(self) -> str | None:
        """Which taps it has chosen, in a line; None of a loss without taps."""
        return None

    def forward(self, inputs: LossInputs) -> Tensor:
        """The term's value for one batch, before its weight: a scalar."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")
