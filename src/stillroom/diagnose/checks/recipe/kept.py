"""Whether the answers that are kept for this recipe are still what its teacher says."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from stillroom.data.loader import BatchLoader
from stillroom.diagnose.checks.recipe.case import Case
from stillroom.diagnose.checks.recipe.check import Check
from stillroom.diagnose.checks.recipe.parts import Skip
from stillroom.diagnose.finding import Finding, Remedy
from stillroom.errors import BadInput
from stillroom.run.build import build_teacher, request_of
from stillroom.run.context import RunContext
from stillroom.run.resolve import uses_cache
from stillroom.teachers.cache import TeacherCache
from stillroom.teachers.cache_store import list_caches
from stillroom.teachers.live import LiveTeacherSource
from stillroom.teachers.source import STALE_TOLERANCE

# Files to read through for a fingerprint, at the most.
_FILES = 20_000


def check_kept(
    source: LiveTeacherSource, setting: RunContext, loader: BatchLoader, views: Sequence[int]
) -> tuple[list[int], str]:
    """Ask a run's own teacher again about a few images of the views that are kept; nothing is built.

    Returns:
        The views that are kept, and the cache's key.

    Raises:
        BadInput: what is kept is damaged, or no longer what the teacher says.
    """
    spec = source.cache_spec()
    cache = TeacherCache(spec).covering(views)
    missing = cache.missing(views)
    there = [view for view in views if view not in missing]
    if there:
        _, query = source.live_teacher(loader)
        cache.open(there, setting.device, only=spec).check(query, tolerance=STALE_TOLERANCE[setting.precision])
    return there, cache.spec.key


class StaleCache(Check):
    """Whether kept answers can be used."""

    name = "stale_cache"
    threshold = (
        "Sick: the answers kept for this recipe are damaged, or the teacher, asked again about 16 images of each of "
        "up to 8 views, says something else by more than rounding explains: the check that a run makes before it "
        "uses them."
    )
    source = "A cache is known by what its answers depend on; code of one's own can change and leave the weights alike."

    def examine(self, case: Case) -> Finding:
        """Look whether there are any, and ask again."""
        teacher, setting, recipe = case.teacher, case.setting, case.recipe
        config = recipe.teacher
        assert config is not None
        steps = case.batches.steps_per_epoch
        epochs = -(-recipe.training.total_steps(steps) // steps)
        reads = bool(case.teaching)
        if not reads or not uses_cache(recipe, reads_teacher=reads, epochs=epochs):
            return self.found("ok", "A run of this recipe keeps no answers to training images.")
        if not any(kept["teacher"] == config.name or kept["problem"] for kept in list_caches()):
            return self.found("ok", f"No answers of {config.name} are kept yet.")
        images = setting.data.train.parent.images
        if not isinstance(images, Tensor) and len(images) > _FILES:
            raise Skip(f"To know the cache of {len(images):,} files, all of them would have to be read.")
        source = build_teacher(setting, teacher, request_of(case.losses))
        loader = BatchLoader(setting.data.train, recipe.data.augmentation, setting.device, recipe.data.workers)
        views = range(min(recipe.data.augmentation.different_views, epochs))
        try:
            there, key = check_kept(source, setting, loader, views)
        except BadInput as error:
            words = f"Have the teacher asked again: stillroom cache --remove {error.value}; or do without what is kept."
            told = f"What is kept of this teacher's answers cannot be used: {error.expected}."
            return self.found("problem", told, {"key": str(error.value)}, Remedy(words, {"cache.enabled": False}))
        if not there:
            return self.found("ok", "No answers are kept yet for this recipe.", {"key": key})
        told = f"The answers kept for {len(there)} of {len(views)} views are what the teacher says."
        return self.found("ok", told, {"key": key, "views": there})
