"""What a recipe names, as objects: data, student, losses, teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from stillroom.data.images import DataPair
from stillroom.data.sources import load
from stillroom.errors import BadInput
from stillroom.losses.base import Loss
from stillroom.losses.registry import build_losses
from stillroom.models.config import ModelConfig, PreprocessConfig
from stillroom.models.registry import brings_weights, build
from stillroom.models.tail import head_tensors
from stillroom.models.weights import Note, load_weights
from stillroom.randomness import seed_rng
from stillroom.recipe import Recipe


@dataclass(frozen=True)
class RunComponents:
    """What a recipe names, as objects: given by the user in Python, or built from the recipe.

    Attributes:
        data: both splits.
        student: the model that learns.
        losses: the terms of the loss.
        teachers: those that are models, by their names in the recipe (``teacher`` where there is one).
        num_teacher_classes: how many classes the teacher knows, the first ones, where these are not all: losses that
            read it then see no logits of others.
    """

    data: DataPair
    student: nn.Module
    losses: Sequence[Loss[Any]]
    teachers: Mapping[str, nn.Module] = field(default_factory=dict)
    num_teacher_classes: int | None = None


class InputFacts(Protocol):
    """What a model must know of the data: an ImageSet knows it, and so does a finished run's summary."""

    @property
    def num_classes(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def image_size(self) -> int | None: ...


def build_model(config: ModelConfig, data: InputFacts, field: str, note: Note = lambda text: None) -> nn.Module:
    """The model a config names, made for this data, with the config's weights where it has any.

    Args:
        note: called with a line where its weights were chosen among several, or not all were used.
    """
    preprocess = config.preprocess if isinstance(config.preprocess, PreprocessConfig) else None
    order = preprocess.class_order if preprocess is not None else None
    classes = max([data.num_classes, *(column + 1 for column in order or ())])
    side = (preprocess.size if preprocess is not None else None) or data.image_size
    model = build(config, num_classes=classes, in_channels=data.channels, image_size=side, field=field)
    if config.weights is not None:
        fresh: list[str] = []
        if config.head == "new":
            example = torch.zeros(2, data.channels, *((side, side) if side else ()))
            fresh = head_tensors(model, example, classes, field=field)
        load_weights(
            model,
            config.weights,
            field=field,
            key=config.weights_key,
            prefix=config.weights_prefix,
            fresh=fresh,
            note=note,
        )
    return model


def build_components(recipe: Recipe, data: DataPair | None = None, note: Note = lambda text: None) -> RunComponents:
    """Make all that a recipe names.

    Args:
        recipe: what names it.
        data: what ``recipe.data`` names, where it was read before; read where left out.
        note: called with what the user should know of how they were made.

    Raises:
        BadInput: something cannot be found, read or made.
    """
    if recipe.incremental is not None:
        expected = "none here: `stillroom incremental` does a recipe whose classes come in tasks"
        raise BadInput.with_message("incremental", None, f"incremental: expected {expected}")
    data = data or load(recipe.data)
    teachers = {}
    for name, config in recipe.all_teachers.items():
        if config.logits is not None:
            continue
        place = recipe.teacher_field(name)
        if config.weights is None and not brings_weights(config.name):
            expected = "a file of weights: a teacher with random weights teaches nothing"
            raise BadInput(f"{place}.weights", None, expected)
        teachers[name] = build_model(config, data.train, place, note)
    with seed_rng(recipe.seed, "student-init"):
        student = build_model(recipe.student, data.train, "student", note)
    with seed_rng(recipe.seed, "connector-init"):
        losses = build_losses(recipe.losses)
    return RunComponents(data, student, losses, teachers)
