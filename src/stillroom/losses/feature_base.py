"""What losses on features share: options that name taps, the pairs of taps that are compared, their connectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from torch import Tensor, nn

from stillroom.config import by_shape
from stillroom.errors import BadInput
from stillroom.losses.base import Family, Loss, LossConfig, LossInputs, Requires
from stillroom.losses.connectors import as_map, shape_of, to_rows
from stillroom.losses.setup_context import SetupContext, TapPair
from stillroom.models.taps import Tap
from stillroom.tasks import TASKS

TapName = Annotated[
    Annotated[str, Field(min_length=1), Tag("tag:name")] | Annotated[TapPair, Tag("tag:table")], by_shape("name")
]
TapList = Annotated[tuple[TapName, ...], Field(min_length=1), Tag("tag:list")]
WORD_OR_LIST = Discriminator(lambda value: "tag:word" if isinstance(value, str) else "tag:list")


def only_words(*words: str) -> BeforeValidator:
    """The check of an option that is one of some words or a list of taps: it refuses other words."""

    def check(value: Any) -> Any:
        if isinstance(value, str) and value not in words:
            several = f"{', '.join(words)}, or a list of taps"
            raise ValueError(f"{several} such as [layer2] or [{{teacher: layer2, student: blocks.1}}]")
        return value

    return BeforeValidator(check)


class TapConfig(LossConfig):
    """The options of every loss that reads the student's features."""

    taps: str | tuple[str | TapPair, ...]
    connector: Literal["auto", "identity", "none"] = Field(
        "auto",
        description="What the student's features go through: auto learns a map to the teacher's shape, also where the "
        "shapes are equal; identity takes them as they are, and needs equal shapes.",
    )

    @model_validator(mode="after")
    def _taps_differ(self) -> TapConfig:
        if isinstance(self.taps, str):
            return self
        for place, tap in enumerate(self.taps):
            if tap in self.taps[:place]:
                raise ValueError(
                    f"each of taps once, but {tap if isinstance(tap, str) else tap.model_dump()} is there twice"
                )
            if "logits" in ((tap,) if isinstance(tap, str) else (tap.teacher, tap.student)):
                raise ValueError("taps that are features; the losses on logits read the logits")
        return self


class FeatureConfig(TapConfig):
    """The options of every loss that compares features of the student with the teacher's."""

    taps: Annotated[
        Annotated[Literal["features", "all"], Tag("tag:word")] | TapList, WORD_OR_LIST, only_words("features", "all")
    ] = Field(
        "features",
        description="Where features are read: features (before the last layer), all (every pair that `stillroom taps` "
        "shows but the logits), or a list. A name in it is a tap of the teacher, compared with the student's opposite "
        "it; {teacher: NAME, student: NAME} names both.",
    )

    @property
    def cached_features(self) -> int:
        """One a tap; ``all`` counts as many."""
        return len(self.taps) if isinstance(self.taps, tuple) else 100 if self.taps == "all" else 1


class PlainFeatureConfig(FeatureConfig):
    """The options of every loss on features that compares something without channels, and so learns no map."""

    connector: Literal["none"] = Field("none", description="No map is learned: what is compared has no channels.")


class MapConfig(PlainFeatureConfig):
    """The options of every loss that compares maps of both models, stage by stage."""

    taps: Annotated[Annotated[Literal["maps"], Tag("tag:word")] | TapList, WORD_OR_LIST, only_words("maps")] = Field(  # type: ignore[assignment]
        "maps",
        description="Where maps are read: maps (every pair that `stillroom taps` shows and that has places in both), "
        "or a list, as for feature_mse.",
    )

    @property
    def cached_features(self) -> int:
        """One a tap; ``maps`` counts as many."""
        return len(self.taps) if isinstance(self.taps, tuple) else 100


TapConfigT = TypeVar("TapConfigT", bound=TapConfig)
FeatureConfigT = TypeVar("FeatureConfigT", bound=FeatureConfig)
PlainConfigT = TypeVar("PlainConfigT", bound=PlainFeatureConfig)
MapConfigT = TypeVar("MapConfigT", bound=MapConfig)


class TapLoss(Loss[TapConfigT]):
    """A loss that reads the student's features: it chooses pairs of taps in :meth:`setup`.

    The connectors learn with the student and are no part of it. Those that end in maps have batch norm, so that each
    micro-batch is normalised by itself, as in the student's own batch norms.
    """

    requires = Requires(teacher=True)
    tasks = TASKS
    verb: ClassVar[str] = "compares"  # what :meth:`describe_taps` says it does with the taps
    # Whether what stands for padding in features of texts counts nothing in it; else it takes vectors of them alone.
    leaves_padding_out: ClassVar[bool] = False

    # (the teacher's tap, the student's), shallow to deep where found, else in the recipe's order.
    pairs: tuple[tuple[Tap, Tap], ...] = ()
    # From the student's features to the teacher's shape, one a pair; a list, because names of taps hold dots, which
    # names of modules cannot.
    connectors: nn.ModuleList

    def setup(self, setup_context: SetupContext) -> None:
        """Choose the pairs and make their connectors.

        Raises:
            BadInput: no such tap, no model as teacher, or features that cannot be brought to the teacher's shape.
        """
        where = f"losses.{self.name}"
        self.pairs = self.choose_pairs(setup_context, f"{where}.taps")
        inner = [tap for pair in self.pairs for tap in pair if tap.kind != "vector"]
        if setup_context.is_text and inner and not self.leaves_padding_out:
            expected = f"taps of vectors, such as features: {self.name} would compare the padding of texts, too"
            raise BadInput(f"{where}.taps", inner[0].name, expected)
        self.requires = self.requirements(setup_context)
        kind = self.config.connector
        made = [
            nn.Identity()
            if kind == "none"
            else setup_context.connector(student, teacher, kind, field=f"{where}.connector")
            for teacher, student in self.pairs
        ]
        self.connectors = nn.ModuleList(made)

    def choose_pairs(self, setup_context: SetupContext, field: str) -> tuple[tuple[Tap, Tap], ...]:
        """The pairs that the options mean; ``field`` is the option's name in messages."""
        return setup_context.choose_pairs(self.config.taps, field=field)

    def requirements(self, setup_context: SetupContext) -> Requires:
        """What it requires, once its pairs are known."""
        raise NotImplementedError(f"{type(self).__name__} has no requirements()")

    def connected(self, inputs: LossInputs) -> Iterator[tuple[Tap, Tensor]]:
        """Of each pair: the teacher's tap, and the student's features through the connector, [B, …].

        Raises:
            RuntimeError: :meth:`setup` was not called.
        """
        if not self.pairs:
            raise RuntimeError(f"loss {self.name!r} has not seen teacher and student: call setup() first")
        for (teacher, student), connector in zip(self.pairs, self.connectors, strict=True):
            yield teacher, connector(inputs.student.features[student.name])

    def describe_taps(self) -> str:
        """What it does with which taps, in a line."""
        pairs = (f"{s.name} {shape_of(s)} → {t.name} {shape_of(t)}" for t, s in self.pairs)
        return f"{self.name} {self.verb} (student → teacher) " + ", ".join(pairs)


class FeatureLoss(TapLoss[FeatureConfigT]):
    """A loss that compares features with the teacher's; a subclass takes ``self.feature_pairs(inputs)``."""

    family: ClassVar[Family] = "features"

    def requirements(self, setup_context: SetupContext) -> Requires:
        """The features of both at the pairs."""
        return Requires(
            teacher=True,
            teacher_features=tuple(teacher.name for teacher, _ in self.pairs),
            student_features=tuple(student.name for _, student in self.pairs),
        )

    def feature_pairs(self, inputs: LossInputs) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each pair: the student's features through the connector, and the teacher's, of one shape [B, …].

        Raises:
            RuntimeError: :meth:`setup` was not called.
        """
        for teacher, student in self.connected(inputs):
            features = inputs.teacher_features[teacher.name]
            if inputs.mask is not None and teacher.kind == "token":
                weight = self.token_weight(inputs.mask)[..., None].to(student.dtype)
                student, features = student * weight, features * weight.to(features.dtype)
            yield student, features

    def token_weight(self, mask: Tensor) -> Tensor:
        """What features of each token of texts are multiplied by, [B, L], 0 where there is none: √(L/l) in a text of l.

        So the mean of squares over all L places is that over its own l tokens.
        """
        return mask * (mask.shape[1] / mask.sum(1, keepdim=True)).sqrt()


class PooledLoss(FeatureLoss[PlainConfigT]):
    """A loss on features without places, of any width in either model; see :meth:`pooled_pairs`."""

    per_sample = False
    leaves_padding_out = True

    def token_weight(self, mask: Tensor) -> Tensor:
        """L/l for each token of a text of l: the mean over all places is then that over its own."""
        return mask * (mask.shape[1] / mask.sum(1, keepdim=True))

    def pooled_pairs(self, inputs: LossInputs) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each pair the means over places, [B, d] each, the student's and the teacher's; see :meth:`feature_pairs`.

        Raises:
            RuntimeError: :meth:`setup` was not called.
        """
        for (teacher_tap, student_tap), (student, teacher) in zip(self.pairs, self.feature_pairs(inputs), strict=True):
            yield to_rows(student, student_tap).mean(1), to_rows(teacher, teacher_tap).mean(1)


class MapLoss(FeatureLoss[MapConfigT]):
    """A loss on maps of both models; see :meth:`maps`."""

    def choose_pairs(self, setup_context: SetupContext, field: str) -> tuple[tuple[Tap, Tap], ...]:
        """The pairs that the options mean.

        Raises:
            BadInput: one of them has no places.
        """
        if self.config.taps == "maps":
            pairs = setup_context.choose_pairs("all", field=field)
            pairs = tuple(pair for pair in pairs if all(tap.resolution is not None for tap in pair))
            if not pairs:
                raise BadInput(field, "maps", "models with maps opposite each other: these have vectors alone")
            return pairs
        pairs = super().choose_pairs(setup_context, field)
        for tap in (tap for pair in pairs for tap in pair if tap.resolution is None):
            raise BadInput(field, tap.name, f"taps of maps, [C, H, W]; it is a {tap.kind}")
        return pairs

    def maps(self, inputs: LossInputs) -> tuple[list[Tensor], list[Tensor]]:
        """The student's and the teacher's maps, [B, C, H, W] each, shallow to deep.

        Raises:
            RuntimeError: :meth:`setup` was not called.
        """
        pairs = list(zip(self.pairs, self.feature_pairs(inputs), strict=True))
        # Through a connector the student's features have the teacher's layout.
        connected = self.config.connector != "none"
        students = [as_map(s, teacher if connected else student) for (teacher, student), (s, _) in pairs]
        return students, [as_map(t, teacher) for (teacher, _), (_, t) in pairs]
