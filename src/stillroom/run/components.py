"""What a recipe names, as objects: data, student, losses, teachers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import file_digest
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stillroom.data.images import DataPair, ImageSet
from stillroom.data.quality import describe_data
from stillroom.data.sources import load
from stillroom.errors import BadInput
from stillroom.files import digest
from stillroom.losses.base import Loss
from stillroom.losses.registry import build_loss, build_losses, describe, loss_class, parse_loss
from stillroom.models.config import ModelConfig, PreprocessConfig
from stillroom.models.external import PRETRAINED, pretrained_file
from stillroom.models.modes import copy_model
from stillroom.models.registry import brings_weights, build
from stillroom.models.reused_head import ReusedHead
from stillroom.models.tail import head_tensors
from stillroom.models.weights import Note, load_weights, state_hash
from stillroom.randomness import seed_rng
from stillroom.recipe import Recipe
from stillroom.runtime import PhaseClock
from stillroom.schema.run import RunSummary
from stillroom.teachers.class_map import column_names
from stillroom.teachers.config import TeacherConfig
from stillroom.train.optimisation import OwnOptimisation


@dataclass(frozen=True)
class RunComponents:
    """What a recipe names, as objects: given by the user in Python, or built from the recipe."""

    data: DataPair  # both splits
    student: nn.Module  # the model that learns
    losses: Sequence[Loss[Any]]  # the terms of the loss
    # Those that are models, by their names in the recipe (``teacher`` where there is one).
    teachers: Mapping[str, nn.Module] = field(default_factory=dict)
    # How many classes the teacher knows, the first ones, where these are not all: losses that read it then see no
    # logits of others.
    num_teacher_classes: int | None = None
    # The user's optimizer and scheduler, where these are not the recipe's.
    optimisation: OwnOptimisation = field(default_factory=OwnOptimisation)
    # The classes of what the user's functions make, such as ``optimizer``, for the summary.
    custom: Mapping[str, str] = field(default_factory=dict)
    # Of the student's initial weights, where the student was changed since; None: as they are.
    init_hash: str | None = None


@dataclass(frozen=True)
class RunObjects:
    """Objects given in Python, which a finished run's recipe cannot make again; what is missing is made from it."""

    data: DataPair | None = None  # both splits
    student: nn.Module | None = None  # a module that the student's weights fit
    # By their names in the recipe (``teacher`` where there is one).
    teachers: Mapping[str, nn.Module] = field(default_factory=dict)
    losses: Sequence[Loss[Any]] = ()  # the terms of the loss
    # The user's optimizer and scheduler, and the classes of what they make.
    optimisation: OwnOptimisation = field(default_factory=OwnOptimisation)
    custom: Mapping[str, str] = field(default_factory=dict)

    def require_run(self, recipe: Recipe, summary: RunSummary) -> None:
        """Refuse to train again what was trained from other objects than these, or from some that are not here.

        Raises:
            BadInput: images, initial weights, a teacher or a function of the optimisation are missing, or are others.
        """
        self.load_data(recipe, summary.data.fingerprint)
        if self.student is None:
            raise needs_module("student", recipe.student.name)
        if state_hash(self.student) != summary.hashes.init:
            name = type(self.student).__name__
            raise BadInput("student", name, "the weights that the run's student began with; these are others")
        for name, config in recipe.all_teachers.items():
            if not config.is_network:
                continue
            if name not in self.teachers:
                raise needs_module(recipe.teacher_field(name), config.name)
            # A peer learns, too: its weights are no longer those of the module.
            if config.is_model and state_hash(self.teachers[name]) != summary.teachers[name].weights_hash:
                kind = type(self.teachers[name]).__name__
                raise BadInput(recipe.teacher_field(name), kind, "the weights that the run's teacher had")
        own = self.optimisation
        for argument, options, function in (
            ("optimizer", recipe.training.optimizer, own.optimizer),
            ("scheduler", recipe.training.schedule, own.scheduler),
        ):
            if options.name == "custom" and function is None:
                expected = "the function that made it: the run that `stillroom.distill` gave back has it"
                raise BadInput(argument, None, expected)

    def components(self, recipe: Recipe, original: Recipe) -> RunComponents:
        """Copies of the objects for another run of them.

        Args:
            recipe: its recipe; a loss whose options differ from the given one's is made from it.
            original: the recipe of the run that the objects are of.

        Raises:
            BadInput: a term of the loss, the optimizer or the scheduler cannot be made from the recipe.
        """
        assert self.data is not None
        assert self.student is not None
        for name, own in (("optimizer", self.optimisation.optimizer), ("schedule", self.optimisation.scheduler)):
            if own is not None and getattr(recipe.training, name) != getattr(original.training, name):
                expected = "the options of the run: a function of yours makes it"
                raise BadInput(f"training.{name}", getattr(recipe.training, name).name, expected)
        given = [(parse_loss(describe(loss)), loss) for loss in self.losses]
        with seed_rng(recipe.seed, "connector-init"):
            losses = []
            for place, config in enumerate(recipe.losses):
                same = [loss for known, loss in given if known == config]
                losses.append(copy.deepcopy(same[0]) if same else build_loss(config, f"losses.{place}"))
        teachers = {name: copy_model(model) for name, model in self.teachers.items()}
        return RunComponents(
            self.data, copy_model(self.student), losses, teachers, optimisation=self.optimisation, custom=self.custom
        )

    def load_data(self, recipe: Recipe, fingerprint: str) -> DataPair:
        """The run's images; BadInput where they are not given, cannot be read, or are not those of the fingerprint."""
        if self.data is None and recipe.data.source == "python":
            raise BadInput("data", "python", f"the images that the run had: {_LOAD_RUN.format('train=…, test=…')}")
        data = self.data or load(recipe.data)
        if fingerprint != digest(data.train.fingerprint.encode(), data.test.fingerprint.encode()):
            raise BadInput("data", data.train.name, "the images that the run had; these are others")
        return data

    def make_student(self, recipe: Recipe, facts: InputFacts) -> nn.Module:
        """A module for the student's weights, not yet with them."""
        if self.student is not None:
            return with_reused_head(copy_model(self.student), recipe.student, facts)
        return _remake(recipe.student.without_weights(), facts, "student", recipe)

    def make_teacher(self, name: str, recipe: Recipe, data: ImageSet) -> nn.Module:
        """A teacher with its weights."""
        given = self.teachers.get(name)
        if given is not None:
            return copy_model(given)
        config, field = recipe.all_teachers[name], recipe.teacher_field(name)
        return _remake(config, data, field, recipe, columns=_columns(config, field))


_LOAD_RUN = "`stillroom.load_run(folder, {})` in Python takes them"


def _columns(config: TeacherConfig, field: str) -> int | None:
    names = column_names(config, field)
    return None if names is None else len(names)


def _remake(
    config: ModelConfig, facts: InputFacts, place: str, recipe: Recipe, columns: int | None = None
) -> nn.Module:
    try:
        return build_model(config, facts, place, columns=columns)
    except BadInput:
        if recipe.data.source != "python":
            raise
        raise needs_module(place, config.name) from None


def needs_module(place: str, name: str) -> BadInput:
    """The error of a run made in Python, whose folder alone cannot make a model again."""
    argument = "student" if place == "student" else "teacher"
    expected = f"the module, as the run was made in Python: {_LOAD_RUN.format(f'{argument}=…')}"
    return BadInput(place, name, expected)


class InputFacts(Protocol):
    """What a model must know of the data: an ImageSet knows it, and so does a finished run's summary."""

    @property
    def num_classes(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def image_size(self) -> int | None: ...
    @property
    def vocabulary(self) -> int | None: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


def build_model(
    config: ModelConfig,
    data: InputFacts,
    field: str,
    note: Note = lambda text: None,
    *,
    columns: int | None = None,
) -> nn.Module:
    """The model a config names, made for this data, with the config's weights where it has any.

    Args:
        note: called with a line where its weights were chosen among several, or not all were used.
        columns: how many logits it has; left out: one for each class of the data, or as its class order says.
    """
    preprocess = config.preprocess if isinstance(config.preprocess, PreprocessConfig) else None
    order = preprocess.class_order if preprocess is not None else None
    named = [column for each in order or () for column in (each if isinstance(each, tuple) else (each,))]
    classes = columns or max([data.num_classes, *(column + 1 for column in named if column is not None)])
    side = _input_size(config, data)
    text = None if data.vocabulary is None else (data.vocabulary, data.shape[0])
    model = build(config, num_classes=classes, in_channels=data.channels, image_size=side, text=text, field=field)
    model = with_reused_head(model, config, data, field)
    if config.weights is not None:
        fresh: list[str] = []
        if config.head == "new":
            example = _blank_input(data, side)
            fresh = head_tensors(model, example, classes, field=field)
        path = weights_file(config, field)
        if config.weights == PRETRAINED:
            with Path(path).open("rb") as file:
                note(f"{field}: published weights of {config.name}, SHA-256 {file_digest(file, 'sha256').hexdigest()}")
        load_weights(
            model,
            path,
            field=field,
            key=config.weights_key,
            prefix=config.weights_prefix,
            fresh=fresh,
            note=note,
        )
    return model


def weights_file(config: ModelConfig, field: str) -> str | Path:
    """The file of a model's weights; ``pretrained`` is fetched once.

    Raises:
        BadInput: published weights that cannot be had.
    """
    assert config.weights is not None
    return pretrained_file(config.name, f"{field}.weights") if config.weights == PRETRAINED else config.weights


def _blank_input(data: InputFacts, side: int | None) -> Tensor:
    """Two of a model's inputs."""
    if data.vocabulary is not None:
        return torch.zeros(2, *data.shape, dtype=torch.int32)
    return torch.zeros(2, data.channels, *((side, side) if side else ()))


def _input_size(config: ModelConfig, data: InputFacts) -> int | None:
    """The side of the images as they reach the model; None where they are not square."""
    resized = config.preprocess.size if isinstance(config.preprocess, PreprocessConfig) else None
    return resized or data.image_size


def with_reused_head(model: nn.Module, config: ModelConfig, data: InputFacts, field: str = "student") -> nn.Module:
    """The model with a head like a teacher's, not yet with its weights, where its config has one."""
    if config.reused_head is None or isinstance(model, ReusedHead):
        return model
    side = _input_size(config, data)
    example = _blank_input(data, side)
    return ReusedHead(model, config.reused_head, example, data.num_classes, field=field)


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
    teachers: dict[str, nn.Module] = {}
    for name, config in recipe.all_teachers.items():
        if not config.is_model:
            if config.learns:
                with seed_rng(recipe.seed, "student-init", 1 + len(teachers)):
                    teachers[name] = build_model(config, data.train, recipe.teacher_field(name), note)
            continue
        place = recipe.teacher_field(name)
        if config.weights is None and not brings_weights(config.name):
            expected = "a file of weights: a teacher with random weights teaches nothing"
            raise BadInput(f"{place}.weights", None, expected)
        teachers[name] = build_model(config, data.train, place, note, columns=_columns(config, place))
    own = recipe.student
    if any(loss_class(term).reuses_head for term in recipe.losses):
        # The run gives it that head.
        own = own.model_copy(update={"reused_head": None})
    with seed_rng(recipe.seed, "student-init"):
        student = build_model(own, data.train, "student", note)
    with seed_rng(recipe.seed, "connector-init"):
        losses = build_losses(recipe.losses)
    return RunComponents(data, student, losses, teachers)
