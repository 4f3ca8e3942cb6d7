"""``cache.json``: what a cache of teacher outputs was made of."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from stillroom.schema.base import Count, Items, JsonObject, PositiveCount

IDENTITY = "cache.json"


class FisherRecord(JsonObject):
    """Fisher weights that are kept with the features of a tap: their temperature, and how many classes were drawn."""

    tap: str
    temperature: float
    samples: Count


class KeptOutputs(JsonObject):
    """What is stored of each image: its logits, or the top k of them, and features at taps."""

    images: PositiveCount
    classes: PositiveCount
    block: PositiveCount = Field(description="Images a checksum.")
    dtype: Literal["float16", "float32"]
    top_k: Count | None
    off_top_k_temperature: float | None = Field(description="Of the classes that are not among the top k.")
    taps: Items[str]
    fishers: Items[FisherRecord] | None = None


class CacheIdentity(JsonObject):
    """What outputs depend on; the cache's key is its hash.

    Besides the fields there are the parts that a teacher source names: ``teacher`` with its weights' hash and its
    preprocess, ``data`` with its fingerprint, ``augmentation`` …
    """

    model_config = ConfigDict(extra="allow")

    format: int
    kept: KeptOutputs

    @property
    def parts(self) -> dict[str, Any]:
        """The parts besides the fields."""
        return dict(self.__pydantic_extra__ or {})


class CacheFile(JsonObject):
    """``cache.json``: the format of the folder's files, and the identity."""

    format: int
    identity: CacheIdentity
