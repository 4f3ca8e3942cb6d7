"""Options of a teacher (a model, or logits computed elsewhere) and of the cache."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from stillroom.config import Config
from stillroom.models.config import ModelConfig

ENSEMBLE, STUDENT = "ensemble", "student"


class TeacherConfig(ModelConfig):
    """A teacher model, the logits of one that cannot be run here, or the mean of several other teachers."""

    left_out = (
        *ModelConfig.left_out,
        "members",
        "mean_temperature",
        "class_names",
        "class_map",
        "ema",
        "snapshot",
        "learns",
    )

    logits: str | None = Field(
        None,
        description="Folder of logits computed elsewhere, by a teacher that cannot be run here; "
        "`stillroom export-inputs` writes the images that they must be for. `name` is then only a label in reports.",
    )
    same_for_views: bool = Field(
        False,
        description="Use the logits of the unaugmented image for every augmented view of it: an approximation, and "
        "only for `logits`.",
    )
    members: dict[str, Annotated[float, Field(gt=0)]] | None = Field(
        None,
        min_length=1,
        description="Names in `teachers` of those whose probabilities this one is the mean of, each with its weight; "
        "the weights are divided by their sum.",
    )
    mean_temperature: float | None = Field(
        None,
        gt=0,
        description="Of `members`: temperature τ at which probabilities are averaged for the losses; left out: that "
        "of the losses that read it, 1 where they have none.",
    )

    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="The teacher is the moving average of the student's own weights, with this decay a step "
        "(mean teacher); such as .99.",
    )
    snapshot: int | None = Field(
        None,
        ge=1,
        description="The teacher is the student as it was at its last multiple of so many epochs; until the first, as "
        "it began.",
    )
    learns: Literal[True] | None = Field(
        None,
        description="true: a second student of this name and these options, from random weights or `weights`, which "
        "learns from the first by the same losses while it teaches it (mutual learning).",
    )
    embeddings: Literal[True] | None = Field(
        None,
        description="true: its output [B, d] is an embedding, not logits; losses on features and relations learn from "
        "it, as its tap `features`.",
    )
    class_names: str | tuple[str, ...] | None = Field(
        None,
        description="Names of the teacher's classes, one for each of its logits, or a file of them (a line each, or a "
        "JSON list), where these are others or more than the data's: columns are found by names that match, and the "
        "losses that read this teacher compare the classes that both have.",
    )
    class_map: str | dict[str, str | int | tuple[str | int, ...]] | None = Field(
        None,
        description="For classes of the data that the teacher calls otherwise: its class, or several, whose "
        "probabilities are added, by name or column; [] for none. Or a file that holds such a mapping.",
    )

    @model_validator(mode="before")
    @classmethod
    def _name_of_no_model(cls, given: Any) -> Any:
        names = {"members": ENSEMBLE, "ema": STUDENT, "snapshot": STUDENT}
        kinds = [name for key, name in names.items() if isinstance(given, dict) and given.get(key) is not None]
        return {"name": kinds[0], **given} if kinds else given

    @model_validator(mode="after")
    def _members_alone(self) -> TeacherConfig:
        maps = (self.class_names, self.class_map)
        if not self.is_model and any(each is not None for each in maps):
            raise ValueError("class_names and class_map of a model only: logits elsewhere are in the data's order")
        others = (self.weights, self.logits, self.preprocess, self.options or None)
        kinds = [name for name in ("members", "ema", "snapshot", "learns") if getattr(self, name) is not None]
        if self.embeddings and (kinds or self.logits is not None or any(each is not None for each in maps)):
            raise ValueError("embeddings of a model only, without class_names and class_map: it has no classes")
        if len(kinds) > 1:
            raise ValueError(f"one of {' and '.join(kinds)}")
        if self.members is not None and any(other is not None for other in others):
            raise ValueError("members alone: weights, options, preprocess and logits are those of each member")
        if self.follows_student and any(other is not None for other in others):
            raise ValueError(f"{kinds[0]} alone: weights, options and preprocess are the student's")
        if self.learns and self.logits is not None:
            raise ValueError("learns of a model only: logits do not change")
        if self.members is None and self.mean_temperature is not None:
            raise ValueError("mean_temperature with members only")
        return self

    @property
    def is_model(self) -> bool:
        """Whether it is a model of its own, which stays as it is."""
        return self.logits is None and self.members is None and not self.changes

    @property
    def is_network(self) -> bool:
        """Whether it has a network with a preprocess of its own: one that stays as it is, or that learns."""
        return self.is_model or self.learns is not None

    @property
    def follows_student(self) -> bool:
        """Whether its weights are made of the student's."""
        return self.ema is not None or self.snapshot is not None

    @property
    def changes(self) -> bool:
        """Whether it changes as the student learns; nothing of it can be stored."""
        return self.follows_student or self.learns is not None

    @model_validator(mode="after")
    def _one_source(self) -> TeacherConfig:
        if self.logits is not None and (self.weights is not None or self.options or self.preprocess is not None):
            raise ValueError("logits alone, or a model with weights, options and preprocess, not both")
        if self.same_for_views and self.logits is None:
            raise ValueError("same_for_views with logits only: a model is run on every view")
        if self.head is not None:
            raise ValueError("a teacher with the head of its weights: a new one knows no class; `student` may have one")
        return self


class CacheConfig(Config):
    """Whether and how the outputs of teachers are stored; the cache lies in $STILLROOM_CACHE."""

    enabled: Literal["auto", True, False] = Field(
        "auto",
        description="Whether to store the teacher's outputs; auto stores them where that makes no teacher pass more "
        "than the run without a cache: where the run comes to all of each view that it shows. Features, with logits, "
        "it stores only for more epochs than views.",
    )
    dtype: Literal["float16", "float32"] = Field(
        "float16", description="Number format of the stored logits and features."
    )
    top_k: int | None = Field(
        None,
        ge=1,
        description="Store only this many largest logits of each image, for data of many classes; the other classes "
        "share their mass evenly.",
    )
    off_top_k_temperature: float = Field(
        4.0,
        gt=0,
        description="Temperature at which the classes beyond top_k keep exactly their total probability mass.",
    )
    max_gb: float = Field(10.0, gt=0, description="Refuse to build a cache larger than this, in units of 10⁹ bytes.")
