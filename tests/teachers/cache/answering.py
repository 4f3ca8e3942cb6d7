"""A teacher that answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stillroom.teachers.cache import TeacherCache
from stillroom.teachers.cache_format import CacheSpec
from stillroom.teachers.fisher import FisherOf
from stillroom.teachers.output import ModelOutput

COUNT, CLASSES, BLOCK = 23, 7, 8
Rows = npt.NDArray[np.int64]


class Talker:
    """Says something else of each (view, image), the same whenever it is asked; remembers what it was asked."""

    def __init__(
        self,
        count: int = COUNT,
        classes: int = CLASSES,
        taps: dict[str, tuple[int, ...]] | None = None,
        fishers: tuple[FisherOf, ...] = (),
    ):
        self.count, self.classes, self.taps, self.fishers = count, classes, taps or {}, fishers
        self.asked: list[tuple[int, int]] = []

    def all(self, view: int) -> ModelOutput:
        generator = torch.Generator().manual_seed(view)
        logits = torch.randn(self.count, self.classes, generator=generator) * 5
        features = {
            tap: torch.randn(self.count, *shape, generator=generator) for tap, shape in sorted(self.taps.items())
        }
        # Of very different size, as those of a teacher are that is surer of some images than of others.
        fishers = {
            of: torch.exp(4 * torch.randn(self.count, *self.taps[of.tap], generator=generator) - 6)
            for of in self.fishers
        }
        return ModelOutput(logits, features, fishers)

    def __call__(self, view: int, rows: Rows) -> ModelOutput:
        self.asked += [(view, int(row)) for row in rows]
        everything, index = self.all(view), torch.from_numpy(rows)
        features = {tap: feature[index] for tap, feature in everything.features.items()}
        fishers = {of: weight[index] for of, weight in everything.fishers.items()}
        return ModelOutput(everything.logits[index], features, fishers)


def spec(**changes: Any) -> CacheSpec:
    parts = {"teacher": {"name": "talker", "weights": "a1"}, "data": "d1"}
    return CacheSpec(**{"parts": parts, "count": COUNT, "classes": CLASSES, "block": BLOCK, **changes})


def cache(root: Path, **changes: Any) -> TeacherCache:
    return TeacherCache(spec(**changes), root=root)


def contents(folder: Path) -> dict[str, bytes]:
    """All that lies in a cache's folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
