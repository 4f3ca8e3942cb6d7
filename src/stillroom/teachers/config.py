"""Options of a teacher (a model, or logits computed elsewhere) and of the cache."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stillroom.config import Config
from stillroom.models.config import ModelConfig


class TeacherConfig(ModelConfig):
    """A teacher model, or the logits of one that cannot be run here."""

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
        "than the run without a cache: where the run comes to all of each view that it shows. Features, beside logits, "
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
