"""Check of the cache: whether the cached teacher outputs for a recipe are still what its teacher gives."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from stillroom.data.loader import BatchLoader
from stillroom.diagnose.check import CheckResult, Skip, check, percent
from stillroom.diagnose.checks.recipe.context import CheckContext
from stillroom.errors import BadInput
from stillroom.run.build import build_teacher, request_of
from stillroom.run.context import RunContext
from stillroom.run.resolve import uses_cache
from stillroom.schema.diagnosis import Remedy
from stillroom.tasks import TASKS
from stillroom.teachers.cache import TeacherCache
from stillroom.teachers.cache_store import list_caches
from stillroom.teachers.live import LiveTeacherSource
from stillroom.teachers.source import STALE_TOLERANCE, change_between_queries

# Files to read for a fingerprint, at the most.
_FILES = 20_000


def check_cached(
    source: LiveTeacherSource, run_context: RunContext, loader: BatchLoader, views: Sequence[int]
) -> tuple[list[int], str]:
    """Compare cached outputs with a run's own teacher for a few images of each view and of the test split.

    Nothing is built.

    Returns:
        The views that are cached, and the cache's key.

    Raises:
        BadInput: the cache is damaged, or no longer what the teacher gives.
    """
    spec = source.cache_spec()
    cache = TeacherCache(spec).covering(views)
    missing = cache.missing(views)
    there = [view for view in views if view not in missing]
    if there:
        _, query = source.live_teacher(loader)
        cache.open(there, run_context.device, only=spec).check(
            query, tolerance=STALE_TOLERANCE[run_context.teacher_precision]
        )
    test_spec, test_query = source.test_cache()
    test_cache = TeacherCache(test_spec).covering([0])
    if not test_cache.missing([0]):
        stored = test_cache.open([0], run_context.device, only=test_spec)
        stored.check(test_query, tolerance=STALE_TOLERANCE["float32"])
    return there, cache.spec.key


@check(
    threshold=(
        "Problem: the cached outputs for this recipe are damaged, or the teacher, run again on 16 $images of each of "
        "up to 8 views and of the test split, gives something "
        "else by more than rounding explains: the check that a run makes before it uses "
        "them. Problem also where the teacher itself gives other outputs for the same $images each time."
    ),
    source="A cache's key names what its outputs depend on; custom code can change while the weights stay equal.",
    tasks=TASKS,
)
def stale_cache(context: CheckContext) -> CheckResult:
    """Whether cached teacher outputs can be used."""
    teacher, run_context, recipe = context.teacher, context.run_context, context.recipe
    config = recipe.teacher
    assert config is not None
    epochs = -(-context.total_steps // context.steps_per_epoch)
    reads = bool(context.teacher_losses)
    if not reads or not uses_cache(recipe, context.losses, run_context.data.train):
        return CheckResult("ok", "A run of this recipe caches no teacher outputs.")
    source = build_teacher(run_context, teacher, request_of(context.losses))
    loader = BatchLoader(
        run_context.data.train,
        recipe.data.augmentation,
        run_context.device,
        recipe.data.workers,
        full_length=True,
    )
    _, query = source.live_teacher(loader)
    change = change_between_queries(query, 0, len(run_context.data.train.parent))
    if change > STALE_TOLERANCE[run_context.teacher_precision]:
        summary = f"The teacher is random: two queries of the same $images differ by {percent(change)} of a logit."
        words = "Make it give the same outputs each time in eval mode (dropout that is always on?), or do not cache it."
        return CheckResult("problem", summary, {"change": change}, Remedy(words, {"cache.enabled": False}))
    if not any(cached["teacher"] == config.name or cached["problem"] for cached in list_caches()):
        return CheckResult("ok", f"No outputs of {config.name} are cached yet.")
    images = run_context.data.train.parent.images
    if not isinstance(images, Tensor) and len(images) > _FILES:
        raise Skip(f"To find the cache of {len(images):,} files, all of them would have to be read.")
    views = range(min(recipe.data.augmentation.different_views, epochs))
    try:
        there, key = check_cached(source, run_context, loader, views)
    except BadInput as error:
        words = f"Remove the cache to build it again: stillroom cache --remove {error.value}; or disable it."
        summary = f"The cached outputs of this teacher cannot be used: {error.expected}."
        return CheckResult("problem", summary, {"key": str(error.value)}, Remedy(words, {"cache.enabled": False}))
    if not there:
        return CheckResult("ok", "No outputs are cached yet for this recipe.", {"key": key})
    summary = f"The cached outputs for {len(there)} of {len(views)} views match the teacher."
    return CheckResult("ok", summary, {"key": key, "views": there})
