"""The options of every objective, and weights that follow a schedule. Nothing here imports torch."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from stillroom.config import Config, by_shape
from stillroom.errors import nearest

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


class ObjectiveConfig(Config):
    """What every objective has: a name and the weight of its term in the loss."""

    name: str
    weight: Weight = Field(
        1.0, description="Factor of this term in the loss: a number, or a schedule over the training."
    )

    @model_validator(mode="after")
    def _weight_counts(self) -> ObjectiveConfig:
        ends = (self.weight.start, self.weight.end) if isinstance(self.weight, WeightSchedule) else (self.weight,)
        if not any(ends):
            raise ValueError("a weight above 0; leave a term out that should not count")
        return self

    def weight_at(self, progress: float) -> float:
        """The weight at a fraction of the training (0 at the first step, towards 1 at the last)."""
        return self.weight.at(progress) if isinstance(self.weight, WeightSchedule) else self.weight


class CrossEntropyConfig(ObjectiveConfig):
    """Cross-entropy with the true labels."""

    name: Literal["cross_entropy"] = "cross_entropy"


class LabelSmoothingConfig(ObjectiveConfig):
    """Cross-entropy with labels mixed with the uniform distribution."""

    name: Literal["label_smoothing"] = "label_smoothing"
    smoothing: float = Field(0.1, ge=0, le=1, description="Share of the target spread evenly over all classes.")


class KLConfig(ObjectiveConfig):
    """Kullback-Leibler divergence to the teacher's softened answer."""

    name: Literal["kl"] = "kl"
    temperature: Temperature = 4.0


class LogitMSEConfig(ObjectiveConfig):
    """Mean squared error between logits."""

    name: Literal["logit_mse"] = "logit_mse"
    centred: bool = Field(
        False,
        description="Take each row's mean out of the difference first, as the high-temperature limit of `kl` does.",
    )


class LogitFisherConfig(ObjectiveConfig):
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


def _word_or_list(value: Any) -> Any:
    if isinstance(value, str) and value not in ("features", "all"):
        raise ValueError("features, all, or a list of taps such as [layer2] or [{teacher: layer2, student: blocks.1}]")
    return value


class FeatureConfig(ObjectiveConfig):
    """What every objective has that compares features of the student with the teacher's."""

    taps: Annotated[
        Annotated[Literal["features", "all"], Tag("tag:word")]
        | Annotated[tuple[Tap, ...], Field(min_length=1), Tag("tag:list")],
        Discriminator(lambda value: "tag:word" if isinstance(value, str) else "tag:list"),
        BeforeValidator(_word_or_list),
    ] = Field(
        "features",
        description="Where features are read: features (before the last layer), all (every pair that `stillroom taps` "
        "shows but the logits), or a list. A name in it is a tap of the teacher, compared with the student's opposite "
        "it; {teacher: NAME, student: NAME} names both.",
    )
    connector: Literal["auto", "identity"] = Field(
        "auto",
        description="What the student's features go through: auto learns a map to the teacher's shape, also where the "
        "shapes are equal; identity compares them as they are, and needs equal shapes.",
    )

    @model_validator(mode="after")
    def _taps_differ(self) -> FeatureConfig:
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


class FeatureMSEConfig(FeatureConfig):
    """Mean squared error between features."""

    name: Literal["feature_mse"] = "feature_mse"


class CustomObjectiveConfig(ObjectiveConfig):
    """An objective of your own, named module:Class."""

    name: str = Field(pattern=r"^[\w.]+:[\w.<>]+$", description="module:Class of an Objective.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the class, checked by its own config."
    )


BUILT_IN: tuple[type[ObjectiveConfig], ...] = (
    CrossEntropyConfig,
    LabelSmoothingConfig,
    KLConfig,
    LogitMSEConfig,
    LogitFisherConfig,
    FeatureMSEConfig,
)
NAMES: tuple[str, ...] = tuple(str(config.model_fields["name"].default) for config in BUILT_IN)


def _named(value: Any) -> Any:
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    if not isinstance(name, str):
        raise ValueError(f"a mapping with a name, {nearest('', NAMES)}")
    if ":" not in name and name not in NAMES:
        raise ValueError(f"an objective that exists ({nearest(name, NAMES)}), or module:Class of your own")
    return value


def _tag(value: Any) -> str:
    name = value["name"] if isinstance(value, dict) else value.name
    return "tag:custom" if ":" in name else f"tag:{name}"


AnyObjective = Annotated[
    Annotated[CrossEntropyConfig, Tag("tag:cross_entropy")]
    | Annotated[LabelSmoothingConfig, Tag("tag:label_smoothing")]
    | Annotated[KLConfig, Tag("tag:kl")]
    | Annotated[LogitMSEConfig, Tag("tag:logit_mse")]
    | Annotated[LogitFisherConfig, Tag("tag:logit_fisher")]
    | Annotated[FeatureMSEConfig, Tag("tag:feature_mse")]
    | Annotated[CustomObjectiveConfig, Tag("tag:custom")],
    Discriminator(_tag),
    BeforeValidator(_named),
]
