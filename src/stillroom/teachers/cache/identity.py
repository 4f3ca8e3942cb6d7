"""What a cache of answers is a cache of: everything an answer depends on, and the form it is kept in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from stillroom.errors import shorten
from stillroom.files import canonical, digest
from stillroom.teachers.config import CacheConfig
from stillroom.teachers.fisher import FisherOf

FORMAT = 1


@dataclass(frozen=True)
class CacheSpec:
    """Which answers are kept, and how.

    The number of views is no part of it: view v shows the same pixels however many there are, so a run of eight views
    finds the four that a run of four views left. Where options make no difference (``top_k`` of all classes or more,
    ``off_top_k_temperature`` without it) they are none, so that the same bytes have one name.

    Args:
        parts: what the answers depend on beside the rest here, as JSON: the teacher, its preprocess, the data's
            fingerprint, the augmentation, the precision.
        count: N, the number of images.
        classes: K, the number of logits of each.
        taps: modules whose features are kept beside the logits.
        fishers: Fisher weights in these features that are kept, too.
        block: images asked about and written at once. It is not the run's batch size: the last bits of an answer depend
            on the batch it was given in, and must not depend on which run built the cache.
        dtype: number format of logits and features.
        top_k: logits kept of each image, the largest; None keeps all.
        off_top_k_temperature: τ at which the classes beyond keep together the mass they had.

    Raises:
        ValueError: a number is below 1.

    >>> four = CacheSpec({"data": "abc"}, count=100, classes=10, top_k=4)
    >>> four.key == CacheSpec({"data": "abc"}, count=100, classes=10, top_k=5).key
    False
    >>> CacheSpec({"data": "abc"}, count=100, classes=10, top_k=10).top_k is None
    True
    """

    parts: Mapping[str, Any]
    count: int
    classes: int
    taps: tuple[str, ...] = ()
    block: int = 256
    dtype: Literal["float16", "float32"] = "float16"
    top_k: int | None = None
    off_top_k_temperature: float = 4.0
    fishers: tuple[FisherOf, ...] = ()

    def __post_init__(self) -> None:
        for name in ("count", "classes", "block"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}; expected 1 or more")
        if taken := {"format", "kept"} & set(self.parts):
            raise ValueError(f"parts: got {sorted(taken)}; expected other names: those are the cache's own")
        object.__setattr__(self, "taps", tuple(sorted(set(self.taps))))
        object.__setattr__(self, "fishers", tuple(sorted(set(self.fishers))))
        if alone := {of.tap for of in self.fishers} - set(self.taps):
            raise ValueError(f"fishers: got {sorted(alone)}; expected taps whose features are kept")
        if self.top_k is not None and self.top_k >= self.classes:
            object.__setattr__(self, "top_k", None)

    @classmethod
    def of(
        cls,
        config: CacheConfig,
        parts: Mapping[str, Any],
        *,
        count: int,
        classes: int,
        taps: tuple[str, ...] = (),
        fishers: tuple[FisherOf, ...] = (),
        block: int = 256,
    ) -> CacheSpec:
        """The spec that a recipe's ``cache`` options ask for.

        >>> CacheSpec.of(CacheConfig(dtype="float32"), {}, count=5, classes=3).dtype
        'float32'
        """
        return cls(
            parts, count, classes, taps, block, config.dtype, config.top_k, config.off_top_k_temperature, fishers
        )

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All of it in clear, as JSON gives it back.

        >>> CacheSpec({"teacher": {"name": "resnet56"}}, count=5, classes=3, top_k=2).identity["kept"]["top_k"]
        2
        """
        kept: dict[str, Any] = {
            "images": self.count,
            "classes": self.classes,
            "block": self.block,
            "dtype": self.dtype,
            "top_k": self.top_k,
            "off_top_k_temperature": self.off_top_k_temperature if self.top_k is not None else None,
            "taps": list(self.taps),
        }
        if self.fishers:
            kept["fishers"] = [of.as_dict() for of in self.fishers]
        identity: dict[str, Any] = json.loads(canonical({"format": FORMAT, **self.parts, "kept": kept}))
        return identity

    @cached_property
    def key(self) -> str:
        """The name of its folder: the first 32 hex digits of a SHA-256 of the identity."""
        return digest(canonical(self.identity))[:32]

    def blocks(self) -> Iterator[range]:
        """The images of each block, in order.

        >>> [len(rows) for rows in CacheSpec({}, count=5, classes=3, block=2).blocks()]
        [2, 2, 1]
        """
        for start in range(0, self.count, self.block):
            yield range(start, min(start + self.block, self.count))


def differences(found: Any, wanted: Any, name: str = "") -> list[str]:
    """Each part in which two identities differ, with both values.

    >>> differences({"teacher": {"weights": "a1"}, "seed": 0}, {"teacher": {"weights": "b2"}, "seed": 0})
    ["teacher.weights is 'a1', this run has 'b2'"]
    """
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            difference
            for part in sorted({*found, *wanted})
            for difference in differences(
                found.get(part, _NOTHING), wanted.get(part, _NOTHING), f"{name}.{part}" if name else str(part)
            )
        ]
    if found == wanted and type(found) is type(wanted):
        return []
    return [f"{name} is {shorten(found, 80)}, this run has {shorten(wanted, 80)}"]


class _Nothing:
    def __repr__(self) -> str:
        return "nothing"


_NOTHING = _Nothing()
