"""Whether the answers that are kept for this recipe are still what its teacher says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from stillroom.data.feeding import Feed
from stillroom.diagnose.finding import Finding, Remedy
from stillroom.diagnose.preflight.case import Case
from stillroom.diagnose.preflight.check import Check
from stillroom.diagnose.preflight.parts import Skip
from stillroom.errors import BadInput
from stillroom.models.fold import left_unfolded
from stillroom.runs.remembering import STALE
from stillroom.runs.setting import uses_cache
from stillroom.runs.teaching import ModelTutor
from stillroom.teacher.cache.store import list_caches
from stillroom.teacher.cache.teacher_cache import CacheSpec, TeacherCache
from stillroom.teacher.knowledge import Knowledge
from stillroom.teacher.live import LiveTeacher
from stillroom.training.device import as_dtype

# Files to read through for a fingerprint, at the most.
_FILES = 20_000


class _Looking(ModelTutor):
    """The run's own teacher, which looks for what it said before, and builds nothing."""

    def check_kept(self, feed: Feed, views: Sequence[int]) -> tuple[list[int], str]:
        """Ask again about a few images of the views that are kept.

        Returns:
            The views that are kept, and the cache's key.

        Raises:
            BadInput: what is kept is damaged, or no longer what the teacher says.
        """
        setting = self._setting
        train, whole = setting.data.train.whole, feed.whole()
        parts = self._identity(train, setting.recipe.data.augmentation, setting.precision)
        if unfolded := left_unfolded(self.dressed.model, self._taps):
            parts["unfolded"] = list(unfolded)
        spec = CacheSpec.of(
            setting.recipe.cache,
            parts,
            count=len(train),
            classes=train.num_classes,
            taps=self._taps,
            fishers=self._fishers,
        )
        cache = TeacherCache(spec).covering(views)
        missing = cache.missing(views)
        there = [view for view in views if view not in missing]
        if not there:
            return [], cache.spec.key
        kept = cache.open(there, setting.device, only=spec)
        live = LiveTeacher(
            self.dressed.model,
            self.dressed.pipe(),
            example=train.images[:8],
            device=setting.device,
            precision=as_dtype(setting.precision),
            taps=self._taps,
            fishers=self._fishers,
            tails=self._tails,
        )

        def again(view: int, rows: npt.NDArray[np.int64]) -> Knowledge:
            return live(next(iter(whole.batches([(rows, view)]))))

        kept.check(again, tolerance=STALE[setting.precision])
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
            return self.found("healthy", "A run of this recipe keeps no answers to training images.")
        if not any(kept["teacher"] == config.name or kept["problem"] for kept in list_caches()):
            return self.found("healthy", f"No answers of {config.name} are kept yet.")
        images = setting.data.train.whole.images
        if not isinstance(images, Tensor) and len(images) > _FILES:
            raise Skip(f"To know the cache of {len(images):,} files, all of them would have to be read.")
        looking = _Looking(teacher, setting, [term.reads for term in case.objectives])
        feed = Feed(setting.data.train, recipe.data.augmentation, setting.device, recipe.data.workers)
        views = range(min(recipe.data.augmentation.different_views, epochs))
        try:
            there, key = looking.check_kept(feed, views)
        except BadInput as error:
            words = f"Have the teacher asked again: stillroom cache --remove {error.value}; or do without what is kept."
            told = f"What is kept of this teacher's answers cannot be used: {error.expected}."
            return self.found("sick", told, {"key": str(error.value)}, Remedy(words, {"cache.enabled": False}))
        if not there:
            return self.found("healthy", "No answers are kept yet for this recipe.", {"key": key})
        told = f"The answers kept for {len(there)} of {len(views)} views are what the teacher says."
        return self.found("healthy", told, {"key": key, "views": there})
