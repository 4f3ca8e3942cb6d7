"""What a recipe names, as objects: data, student, losses, teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from stillroom.data.images import DataPair, ImageSet
from stillroom.data.quality import describe_data
from stillroom.data.sources import load
from stillroom.errors import BadInput
from stillroom.files import digest
from stillroom.losses.base import Loss
from stillroom.losses.registry import build_losses
from stillroom.models.config import ModelConfig, PreprocessConfig
from stillroom.models.modes import copy_model
from stillroom.models.registry import brings_weights, build
from stillroom.models.tail import head_tensors
from stillroom.models.weights import Note, load_weights
from stillroom.randomness import seed_rng
from stillroom.recipe import Recipe
from stillroom.runtime import PhaseClock
from stillroom.train.optimisation import OwnOptimisation


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
        optimisation: the user's optimizer and scheduler, where these are not the recipe's.
        custom: the classes of what the user's functions make, such as ``optimizer``, for the summary.
    """

    data: DataPair
    student: nn.Module
    losses: Sequence[Loss[Any]]
    teachers: Mapping[str, nn.Module] = field(default_factory=dict)
    num_teacher_classes: int | None = None
    optimisation: OwnOptimisation = field(default_factory=OwnOptimisation)
    custom: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunObjects:
    """Objects given in Python, which a finished run's recipe cannot make again; what is missing is made from it.

    Attributes:
        data: both splits.
        student: a module that the student's weights fit.
        teachers: by their names in the recipe (``teacher`` where there is one).
        losses: the terms of the loss.
    """

    data: DataPair | None = None
    student: nn.Module | None = None
    teachers: Mapping[str, nn.Module] = field(default_factory=dict)
    losses: Sequence[Loss[Any]] = ()

    def load_data(self, recipe: Recipe, fingerprint: str) -> DataPair:
        """The run's images.

        Raises:
            BadInput: they are not given, cannot be read, or are not those of the fingerprint.
        """
        if self.data is None and recipe.data.source == "python":
            raise BadInput("data", "python", f"the images that the run had: {_LOAD_RUN.format('train=…, test=…')}")
        data = self.data or load(recipe.data)
        if fingerprint != digest(data.train.fingerprint.encode(), data.test.fingerprint.encode()):
            raise BadInput("data", data.train.name, "the images that the run had; these are others")
        return data

    def make_student(self, recipe: Recipe, facts: InputFacts) -> nn.Module:
        """A module for the student's weights, not yet with them."""
        if self.student is not None:
            return copy_model(self.student)
        return _remake(recipe.student.without_weights(), facts, "student", recipe)

    def make_teacher(self, name: str, recipe: Recipe, data: ImageSet) -> nn.Module:
        """A teacher with its weights."""
        given = self.teachers.get(name)
        if given is not None:
            return copy_model(given)
        return _remake(recipe.all_teachers[name], data, recipe.teacher_field(name), recipe)


_LOAD_RUN = "`stillroom.load_run(folder, {})` in Python takes them"


def _remake(config: ModelConfig, facts: InputFacts, place: str, recipe: Recipe) -> nn.Module:
    try:
        return build_model(config, facts, place)
    except BadInput:
        if recipe.data.source != "python":
            raise
        name = "student" if place == "student" else "teacher"
        expected = f"the module, as the run was made in Python: {_LOAD_RUN.format(f'{name}=…')}"
        raise BadInput(place, config.name, expected) from None


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


def build_components(
    recipe: Recipe, data: DataPair | None = None, note: Note | None = None, clock: PhaseClock | None = None
) -> RunComponents:
    """Make all that a recipe names.

    Args:
        recipe: what names it.
        data: what ``recipe.data`` names, where it was read before; read where left out.
        note: called with what the user should know of the data and of how all was made, a line each.
        clock: counts the time that reading the data takes.

    Raises:
        BadInput: something cannot be found, read or made.
    """
    if recipe.incremental is not None:
        expected = "none here: `stillroom incremental` does a recipe whose classes come in tasks"
        raise BadInput.with_message("incremental", None, f"incremental: expected {expected}")
    with (clock or PhaseClock()).phase("data"):
        data = data or load(recipe.data)
        if note is not None:
            describe_data(data, note)
    note = note or (lambda text: None)
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
