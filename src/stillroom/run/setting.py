"""Where a run takes place, and whether it keeps what its teacher says."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stillroom.data.images import DataPair
from stillroom.errors import BadInput
from stillroom.recipe import Recipe
from stillroom.runtime import Observer, Precision, Processes


@dataclass(frozen=True)
class RunContext:
    """Where a run takes place.

    Attributes:
        recipe: what is done.
        data: both splits.
        device: where models run.
        precision: of the training steps, and so of the teacher's answers in them.
        processes: who shares the work.
        observer: told how it goes.
        known: how many classes the teacher knows, the first ones; None for all.
    """

    recipe: Recipe
    data: DataPair
    device: torch.device
    precision: Precision
    processes: Processes
    observer: Observer
    known: int | None = None

    @property
    def taught_classes(self) -> int:
        """How many logits the teacher gives."""
        return self.data.train.num_classes if self.known is None else self.known


def uses_cache(recipe: Recipe, *, reads_teacher: bool, epochs: int) -> bool:
    """Whether a run keeps the teacher's answers: what the recipe says, and for ``auto`` whether it saves passes.

    Args:
        recipe: with ``cache.enabled`` as the user left it.
        reads_teacher: whether a term of the loss reads the teacher's answers to training images.
        epochs: length of the run, one that is not whole counted.

    Raises:
        BadInput: answers are to be kept, but each epoch asks about new images.
    """
    if recipe.teacher is None:
        return False
    views = recipe.data.augmentation.different_views
    enabled = recipe.cache.enabled
    if recipe.teacher.answers is not None:
        if enabled is False:
            raise BadInput(
                "cache.enabled", enabled, "true or auto beside teacher.answers: there is nothing to ask live"
            )
        return True
    if enabled is True and reads_teacher and not views:
        raise BadInput("cache.enabled", True, "data.augmentation.views of 1 or more: with 0 no view comes twice")
    if enabled != "auto":
        return enabled
    return not reads_teacher or 0 < views < epochs
