"""What a run works on: its resolved recipe and its data, on a runtime."""

from __future__ import annotations

from dataclasses import dataclass

from stillroom.data.images import DataPair
from stillroom.recipe import Recipe
from stillroom.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class RunContext(Runtime):
    """The resolved recipe of a run with its data, on a runtime."""

    recipe: Recipe  # what is done, all written out
    data: DataPair  # both splits
    num_teacher_classes: int | None = None  # how many classes the teacher knows, the first ones; None for all

    @property
    def num_target_classes(self) -> int:
        """How many logits a teacher gives."""
        return self.data.train.num_classes if self.num_teacher_classes is None else self.num_teacher_classes
