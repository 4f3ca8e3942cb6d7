"""What the hashes of a run must be by its own recipe, worked out again: that they agree would prove too little."""

from __future__ import annotations

import math
from functools import lru_cache

from stillroom.continual.hashes import budget_hash, chain_hashes
from stillroom.data.config import AugmentationConfig
from stillroom.files import canonical, digest
from stillroom.study.collect import Run


def trained_on(run: Run) -> list[int]:
    """How many images it learned from: of each task, where its classes came in tasks."""
    facts = run.summary.incremental
    return [run.summary.data.train] if facts is None else [task.train for task in facts.tasks]


def steps_per_epoch(run: Run, images: int) -> int:
    """Whole batches of an epoch over so many images."""
    from stillroom.data.loader import BatchSampler  # brings torch, which foreseeing does without

    return BatchSampler(images, run.recipe.data.batch_size, run.recipe.seed).steps_per_epoch


def total_steps(run: Run) -> int:
    """The length that the recipe gives, in optimizer steps."""
    return sum(run.recipe.training.total_steps(steps_per_epoch(run, images)) for images in trained_on(run))


def order_of(run: Run) -> str:
    """The hash of the order of images that the recipe gives."""
    return chain_hashes([_order(images, run.recipe.seed, _epochs(run, images)) for images in trained_on(run)])


def views_of(run: Run) -> str:
    """The hash of the views that the recipe gives."""
    return chain_hashes([_views(run.recipe.data.augmentation, _epochs(run, images)) for images in trained_on(run)])


def threads_of(run: Run) -> str:
    """The hash of the threads that the recipe gives."""
    return digest(canonical(run.recipe.training.threads))


def budget_of(run: Run) -> str:
    """The hash of the budget that the recipe gives, with the micro-batches and processes that the summary names."""
    facts = run.summary.incremental
    return budget_hash(
        steps=total_steps(run),
        batch_size=run.recipe.data.batch_size,
        accumulate=run.summary.accumulate,
        processes=run.summary.processes,
        data=run.summary.data.fingerprint,
        tasks=None if facts is None else len(facts.tasks),
    )


def _epochs(run: Run, images: int) -> int:
    per_epoch = steps_per_epoch(run, images)
    return math.ceil(run.recipe.training.total_steps(per_epoch) / per_epoch)


@lru_cache(maxsize=4096)
def _order(images: int, seed: int, epochs: int) -> str:
    from stillroom.data.loader import epoch_order

    found = ""
    for epoch in range(epochs):
        found = digest(found.encode(), epoch_order(images, seed, epoch).tobytes())
    return found


@lru_cache(maxsize=4096)
def _views(augmentation: AugmentationConfig, epochs: int) -> str:
    from stillroom.data.augmentation import view_of

    found = ""
    for epoch in range(epochs):
        found = digest(found.encode(), canonical([augmentation.model_dump(), view_of(epoch, augmentation)]))
    return found
