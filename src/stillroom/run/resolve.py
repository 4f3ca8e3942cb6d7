"""Resolves everything that a recipe leaves open: device, precision, preprocess, whether teachers are cached.

Nothing is resolved later or elsewhere: the resolved recipe is the one that is run and written to the run folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import nn

from stillroom.data.images import ImageSet, LazyImages
from stillroom.data.loader import BatchSampler
from stillroom.errors import BadInput
from stillroom.losses.base import Loss
from stillroom.models.config import ModelConfig, PreprocessConfig
from stillroom.models.prepared import preprocess_for
from stillroom.models.preprocess import explicit_preprocess
from stillroom.recipe import Recipe
from stillroom.run.components import RunComponents
from stillroom.teachers.class_map import resolve_class_map
from stillroom.teachers.config import TeacherConfig
from stillroom.train.device import resolve_device, resolve_precision, resolve_threads

ConfigT = TypeVar("ConfigT", bound=ModelConfig)


def resolve(recipe: Recipe, components: RunComponents) -> Recipe:
    """Write out all that a recipe leaves open.

    Args:
        recipe: as the user wrote it.
        components: the form of the training images decides the preprocess; their number and what the losses require
            decide the cache.

    Returns:
        The recipe with ``training.device``, both precisions, ``cache.enabled`` and the ``preprocess`` of each
        model written out; see :func:`with_threads`.

    Raises:
        BadInput: there is no such device, or the options of cache and views contradict each other.
    """
    train = components.data.train
    device = resolve_device(recipe.training.device)
    training = resolve_precision(recipe.training, device, components.student)
    cached = uses_cache(recipe, components.losses, train)
    teachers = {
        name: _teacher_model(config, train, recipe.teacher_field(name), components.teachers.get(name))
        if config.is_network
        else config
        if config.members is None
        else _with_temperature(config, name, recipe, components)
        for name, config in recipe.all_teachers.items()
    }
    return recipe.with_teachers(teachers).model_copy(
        update={
            "student": _with_preprocess(recipe.student, train, "student", components.student),
            "training": training.model_copy(update={"device": device.type}),
            "cache": recipe.cache.model_copy(update={"enabled": cached}),
        }
    )


def with_threads(recipe: Recipe) -> Recipe:
    """The recipe with its number of CPU threads written out, before they are set."""
    count = resolve_threads(recipe.training.threads)
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"threads": count})})


def uses_cache(recipe: Recipe, losses: Sequence[Loss[Any]], train: ImageSet) -> bool:
    """Whether a run stores its teachers' outputs: what the recipe says, and for ``auto`` whether that costs nothing.

    ``auto`` stores them where the run comes to every view of every image anyway, so that the first run makes no more
    teacher passes than it would live, and later ones none. Where no view comes twice in this run itself, it stores
    logits alone, within ``cache.max_gb``: features would fill the disk for a run that may never come.

    Args:
        recipe: with ``cache.enabled`` as the user left it.
        losses: what reads the teachers' outputs for training images.
        train: the training images.

    Raises:
        BadInput: outputs are to be stored, but each epoch shows new images.
    """
    teachers = recipe.all_teachers
    if not [config for config in teachers.values() if not config.changes]:
        if teachers and recipe.cache.enabled is True:
            expected = "false or auto: the teacher changes with the student, and its outputs cannot be stored"
            raise BadInput("cache.enabled", True, expected)
        return False
    reading = [loss for loss in losses if loss.requires.teacher]
    if isinstance(train.images, LazyImages) and not train.images.repeats:
        if recipe.cache.enabled is True and reading:
            expected = "false or auto: the dataset answers differently each time, so no output holds for two views"
            raise BadInput("cache.enabled", True, expected)
        return False
    views = recipe.data.augmentation.different_views
    enabled = recipe.cache.enabled
    if any(config.logits is not None for config in teachers.values()):
        if enabled is False:
            expected = "true or auto with teacher.logits: there is no model to run live"
            raise BadInput("cache.enabled", enabled, expected)
        return True
    if enabled is True and reading and not views:
        raise BadInput("cache.enabled", True, "data.augmentation.views of 1 or more: with 0 no view comes twice")
    if enabled != "auto":
        return enabled
    per_epoch = BatchSampler(len(train), recipe.data.batch_size, recipe.seed).steps_per_epoch
    steps = recipe.training.total_steps(per_epoch)
    shown = min(views, -(-steps // per_epoch))
    if not reading or 0 < views * per_epoch < steps:
        return True
    size = shown * len(train) * train.num_classes * (2 if recipe.cache.dtype == "float16" else 4)
    # Not yet set up, a loss does not say which features it reads.
    logits_alone = all(loss.family in ("logits", "other") and not loss.requires.teacher_features for loss in reading)
    whole = steps >= shown * per_epoch and len(train) == len(train.parent)
    return views > 0 and whole and logits_alone and size <= recipe.cache.max_gb * 1e9


def _with_preprocess(config: ConfigT, train: ImageSet, field: str, model: nn.Module | None) -> ConfigT:
    return config.model_copy(update={"preprocess": preprocess_for(train, config, field, model) or "none"})


def _teacher_model(config: TeacherConfig, train: ImageSet, field: str, model: nn.Module | None) -> TeacherConfig:
    resolved = _with_preprocess(config, train, field, model)
    if config.class_names is None and config.class_map is None:
        return resolved
    numbers = resolved.preprocess if isinstance(resolved.preprocess, PreprocessConfig) else None
    numbers = explicit_preprocess(numbers, train.channels, is_pixels=train.is_pixels)
    return resolve_class_map(resolved.model_copy(update={"preprocess": numbers}), train.class_names, field)


def _with_temperature(config: TeacherConfig, name: str, recipe: Recipe, components: RunComponents) -> TeacherConfig:
    """A mean of teachers with the temperature of the losses that read it; BadInput where these have several."""
    if config.mean_temperature is not None:
        return config
    readers = [
        loss
        for loss in components.losses
        if loss.requires.teacher and (loss.config.teacher or recipe.default_teacher) == name
    ]
    found = {loss.config.softening_temperature or 1.0 for loss in readers} or {1.0}
    if len(found) > 1:
        expected = (
            f"a temperature, as the losses that read it have several ({', '.join(f'{t:g}' for t in sorted(found))})"
        )
        raise BadInput(f"{recipe.teacher_field(name)}.mean_temperature", None, expected)
    return config.model_copy(update={"mean_temperature": found.pop()})
