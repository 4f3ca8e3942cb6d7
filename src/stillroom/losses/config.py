"""The options of every loss, and weights that follow a schedule. Nothing here imports torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from stillroom.config import Config, by_shape
from stillroom.errors import nearest
from stillroom.losses.target_config import Target, is_unsoftened, told_as_a_word

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
    """What every loss has: a name and the weight of its term in the loss."""

    name: str
    weight: Weight = Field(
        1.0, description="Factor of this term in the loss: a number, or a schedule over the training."
    )

    @model_validator(mode="before")
    @classmethod
    def _target_fits(cls, content: Any) -> Any:
        if isinstance(content, dict) and "target" in content and "target" not in cls.model_fields:
            raise ValueError("no target: it is a distribution over the classes, and kl alone compares those")
        return content

    @model_validator(mode="after")
    def _weight_counts(self) -> LossConfig:
        ends = (self.weight.start, self.weight.end) if isinstance(self.weight, WeightSchedule) else (self.weight,)
        if not any(ends):
            raise ValueError("a weight above 0; leave a term out that should not count")
        return self

    def weight_at(self, progress: float) -> float:
        """The weight at a fraction of the training (0 at the first step, towards 1 at the last)."""
        return self.weight.at(progress) if isinstance(self.weight, WeightSchedule) else self.weight


class CrossEntropyConfig(LossConfig):
    """Cross-entropy with the true labels."""

    name: Literal["cross_entropy"] = "cross_entropy"


class LabelSmoothingConfig(LossConfig):
    """Cross-entropy with labels mixed with the uniform distribution."""

    name: Literal["label_smoothing"] = "label_smoothing"
    smoothing: float = Field(0.1, ge=0, le=1, description="Share of the target spread evenly over all classes.")


class KLConfig(LossConfig):
    """Kullback-Leibler divergence to the teacher's softened answer, or to a part of it."""

    name: Literal["kl"] = "kl"
    temperature: Temperature = 4.0
    target: Target = Field(
        None,
        description="Part of the teacher's answer that is taught: full (the whole, also where left out), uniform, "
        "class_similarity, top_k, true_class, true_class_similarity, or {name: top_k, k: 5}. uniform and "
        "class_similarity hold no softened answer, and are taught at temperature 1.",
        json_schema_extra=told_as_a_word,
    )

    @model_validator(mode="before")
    @classmethod
    def _unsoftened_at_1(cls, content: Any) -> Any:
        if isinstance(content, dict) and is_unsoftened(content.get("target")):
            return {"temperature": 1.0, **content}
        return content

    @field_validator("target")
    @classmethod
    def _at_1(cls, target: Target, info: ValidationInfo) -> Target:
        if is_unsoftened(target) and info.data.get("temperature", 1.0) != 1:
            raise ValueError("a target that softens the teacher's answer, or temperature 1: this one holds none")
        return target

    @model_serializer(mode="wrap")
    def _told(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        if content.get("target") is None:
            # Left out, so that a recipe without one reads as it did before there were any.
            content.pop("target", None)
        return content


class LogitMSEConfig(LossConfig):
    """Mean squared error between logits."""

    name: Literal["logit_mse"] = "logit_mse"
    centred: bool = Field(
        False,
        description="Take each row's mean out of the difference first, as the high-temperature limit of `kl` does.",
    )


class LogitFisherConfig(LossConfig):
    """Second order of the KL divergence in the logits."""

    name: Literal["logit_fisher"] = "logit_fisher"
    temperature: Temperature = 1.0
    diagonal: bool = Field(False, description="Keep only the Fisher matrix's diagonal.")


class TapPair(Config):
    """Two places whose features are compared, named by hand."""

    teacher: str = Field(min_length=1, description="Tap of the teacher: a module's path, PATH:pre, or features.")
    student: str = Field(min_length=1, description="The like of the student.")


Tap = Annotated[
    Annotated[str, Field(min_length=1), Tag("tag:name")] | Annotated[TapPair, Tag("tag:table")], by_shape("name")
]


def _word_or_list(*words: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if isinstance(value, str) and value not in words:
            several = f"{', '.join(words)}, or a list of taps"
            raise ValueError(f"{several} such as [layer2] or [{{teacher: layer2, student: blocks.1}}]")
        return value

    return check


class TapConfig(LossConfig):
    """What every loss has that reads the student's features."""

    taps: str | tuple[str | TapPair, ...]
    connector: Literal["auto", "identity"] = Field(
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
                raise ValueError("taps that are features; logit_mse and kl read the logits")
        return self


class FeatureConfig(TapConfig):
    """What every loss has that compares features of the student with the teacher's."""

    taps: Annotated[
        Annotated[Literal["features", "all"], Tag("tag:word")]
        | Annotated[tuple[Tap, ...], Field(min_length=1), Tag("tag:list")],
        Discriminator(lambda value: "tag:word" if isinstance(value, str) else "tag:list"),
        BeforeValidator(_word_or_list("features", "all")),
    ] = Field(
        "features",
        description="Where features are read: features (before the last layer), all (every pair that `stillroom taps` "
        "shows but the logits), or a list. A name in it is a tap of the teacher, compared with the student's opposite "
        "it; {teacher: NAME, student: NAME} names both.",
    )


class FeatureMSEConfig(FeatureConfig):
    """Mean squared error between features."""

    name: Literal["feature_mse"] = "feature_mse"


class FeatureFisherConfig(FeatureConfig):
    """The gap in features, each weighed by how much the teacher's answer depends on it."""

    name: Literal["feature_fisher"] = "feature_fisher"
    temperature: Temperature = 4.0
    samples: Annotated[
        Annotated[Literal["auto", "all"], Tag("tag:word")] | Annotated[int, Field(ge=1), Tag("tag:number")],
        Discriminator(lambda value: "tag:word" if isinstance(value, str) else "tag:number"),
    ] = Field(
        "auto",
        description="Classes drawn of the teacher's answer to weigh an image's features by: a number, or all, a "
        "backward pass of the teacher each; auto is all of up to 16 classes, else 4. Before a linear last layer the "
        "weights are exact and cost nothing.",
    )
    scale: Literal["kl", "mse"] = Field(
        "kl",
        description="kl: as large as the divergence it approximates; mse: divided by the weights' mean over the "
        "training set, so as large as feature_mse.",
    )


class FeatureFullFisherConfig(FeatureConfig):
    """Second order of the KL divergence in the features, through the teacher's own tail."""

    name: Literal["feature_full_fisher"] = "feature_full_fisher"
    temperature: Temperature = 4.0


class BlockLogitConfig(TapConfig):
    """Stepping stones: the student's first blocks and the teacher's last, judged by their logits."""

    name: Literal["block_logit"] = "block_logit"
    taps: Annotated[
        Annotated[Literal["all", "light", "features"], Tag("tag:word")]
        | Annotated[tuple[Tap, ...], Field(min_length=1), Tag("tag:list")],
        Discriminator(lambda value: "tag:word" if isinstance(value, str) else "tag:list"),
        BeforeValidator(_word_or_list("all", "light", "features")),
    ] = Field(
        "all",
        description="Where a stone passes from the student to the teacher: all (every pair that `stillroom taps` "
        "shows but the logits, and none twice that only pooling parts), light (the deeper half of these, whose stones "
        "cost least), features (the last), or a list as for feature_mse.",
    )
    temperature: Temperature = 4.0
    alpha: float = Field(1.0, ge=0, description="α: factor of the labels, for the student and for each stone.")
    beta: float = Field(1.0, ge=0, description="β: factor of the teacher's answer.")
    gamma: float = Field(1.0, ge=0, description="γ: factor of the mean answer of the stones.")

    @model_validator(mode="after")
    def _teaches(self) -> BlockLogitConfig:
        if not self.alpha + self.beta + self.gamma:
            raise ValueError("alpha, beta or gamma above 0")
        return self


class CustomLossConfig(LossConfig):
    """A loss of your own, named module:Class."""

    name: str = Field(pattern=r"^[\w.]+:[\w.<>]+$", description="module:Class of a Loss.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the class, checked by its own config."
    )


BUILT_IN: tuple[type[LossConfig], ...] = (
    CrossEntropyConfig,
    LabelSmoothingConfig,
    KLConfig,
    LogitMSEConfig,
    LogitFisherConfig,
    FeatureMSEConfig,
    FeatureFisherConfig,
    FeatureFullFisherConfig,
    BlockLogitConfig,
)
NAMES: tuple[str, ...] = tuple(str(config.model_fields["name"].default) for config in BUILT_IN)


def _named(value: Any) -> Any:
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    if not isinstance(name, str):
        raise ValueError(f"a mapping with a name, {nearest('', NAMES)}")
    if ":" not in name and name not in NAMES:
        raise ValueError(f"a loss that exists ({nearest(name, NAMES)}), or module:Class of your own")
    return value


def _tag(value: Any) -> str:
    name = value["name"] if isinstance(value, dict) else value.name
    return "tag:custom" if ":" in name else f"tag:{name}"


AnyLoss = Annotated[
    Annotated[CrossEntropyConfig, Tag("tag:cross_entropy")]
    | Annotated[LabelSmoothingConfig, Tag("tag:label_smoothing")]
    | Annotated[KLConfig, Tag("tag:kl")]
    | Annotated[LogitMSEConfig, Tag("tag:logit_mse")]
    | Annotated[LogitFisherConfig, Tag("tag:logit_fisher")]
    | Annotated[FeatureMSEConfig, Tag("tag:feature_mse")]
    | Annotated[FeatureFisherConfig, Tag("tag:feature_fisher")]
    | Annotated[FeatureFullFisherConfig, Tag("tag:feature_full_fisher")]
    | Annotated[BlockLogitConfig, Tag("tag:block_logit")]
    | Annotated[CustomLossConfig, Tag("tag:custom")],
    Discriminator(_tag),
    BeforeValidator(_named),
]
