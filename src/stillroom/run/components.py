"""What a recipe names, as objects that were tried on the data before anything is trained or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from stillroom.data.images import DataPair, ImageSet
from stillroom.data.sources import load
from stillroom.errors import BadInput
from stillroom.losses.base import Loss
from stillroom.losses.registry import build_losses
from stillroom.models.config import ModelConfig, PreprocessConfig
from stillroom.models.prepared import logits_of, prepare_model
from stillroom.models.registry import brings_weights, build
from stillroom.models.weights import load_weights
from stillroom.randomness import seed_rng
from stillroom.recipe import Recipe
from stillroom.runtime import Observer
from stillroom.train.device import exact_float32, resolve_device
from stillroom.train.evaluation import score


@dataclass(frozen=True)
class RunComponents:
    """What a recipe names, as objects: given by the user in Python, or gathered from the recipe.

    ``known`` is how many classes the teacher knows, the first ones, where these are not all: what reads it then sees
    no logits of others.
    """

    data: DataPair
    student: nn.Module
    losses: Sequence[Loss[Any]]
    teacher: nn.Module | None = None
    known: int | None = None


class Facts(Protocol):
    """What a model must know of the data: an ImageSet knows it, and so does a finished run's summary."""

    @property
    def num_classes(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def image_size(self) -> int | None: ...


def build_model(config: ModelConfig, data: Facts, field: str) -> nn.Module:
    """The model a config names, made for this data, with the config's weights where it has any."""
    size = config.preprocess.size if isinstance(config.preprocess, PreprocessConfig) else None
    model = build(
        config,
        num_classes=_columns(config, data),
        in_channels=data.channels,
        image_size=size or data.image_size,
        field=field,
    )
    if config.weights is not None:
        load_weights(model, config.weights, field=field)
    return model


def _columns(config: ModelConfig, data: Facts) -> int:
    order = config.preprocess.class_order if isinstance(config.preprocess, PreprocessConfig) else None
    return max([data.num_classes, *(column + 1 for column in order or ())])


def build_components(recipe: Recipe, data: DataPair | None = None) -> RunComponents:
    """Make all that a recipe names.

    Args:
        recipe: what names it.
        data: what ``recipe.data`` names, where it was read before; read where left out.

    Raises:
        BadInput: something cannot be found, read or made.
    """
    if recipe.incremental is not None:
        expected = "none here: `stillroom incremental` does a recipe whose classes come in tasks"
        raise BadInput.with_message("incremental", None, f"incremental: expected {expected}")
    data = data or load(recipe.data)
    teacher = None
    if recipe.teacher is not None and recipe.teacher.answers is None:
        if recipe.teacher.weights is None and not brings_weights(recipe.teacher.name):
            raise BadInput("teacher.weights", None, "a file of weights: a teacher with random weights teaches nothing")
        teacher = build_model(recipe.teacher, data.train, "teacher")
    with seed_rng(recipe.seed, "student-init"):
        student = build_model(recipe.student, data.train, "student")
    with seed_rng(recipe.seed, "connector-init"):
        losses = build_losses(recipe.losses)
    return RunComponents(data, student, losses, teacher)


def evaluate_model(
    config: ModelConfig, data: ImageSet, *, device: str = "auto", observer: Observer | None = None
) -> dict[str, Any]:
    """Score a pretrained model on a split, in float32.

    Returns:
        ``top1``, ``correct``, ``count``, ``top5``, ``nll``, ``ece``, with their units of :class:`Score`.
    """
    observer = observer or Observer()
    here = resolve_device(device)
    with exact_float32():
        prepared = prepare_model(build_model(config, data, "model").to(here), config, data, "model")
        return score(logits_of(prepared, data, here, observer, "evaluating"), data.labels).as_dict()
