"""What a recipe names, as objects that were tried on the data before anything is trained or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stillroom.data.images import DataPair, ImageSet
from stillroom.data.sources import load
from stillroom.errors import BadInput, shorten
from stillroom.models.config import ModelConfig, PreprocessConfig
from stillroom.models.cost import multiply_adds, parameters
from stillroom.models.preprocess import Preprocess, reorder_classes, resolve_preprocess
from stillroom.models.registry import build
from stillroom.models.weights import load_weights, state_bytes
from stillroom.objectives.base import Objective
from stillroom.objectives.registry import build_objectives
from stillroom.randomness import seeded
from stillroom.recipe import Recipe
from stillroom.training.device import resolve_device
from stillroom.training.evaluation import predict, score
from stillroom.training.observer import Observer


@dataclass(frozen=True)
class Dressed:
    """A model with what its input goes through: all that is needed to ask it about the data's images."""

    model: nn.Module
    preprocess: PreprocessConfig | None
    name: str

    @property
    def class_order(self) -> tuple[int, ...] | None:
        """For each class of the data, the column of the model's logits that means it."""
        return self.preprocess.class_order if self.preprocess else None

    def settled(self, config: ModelConfig) -> ModelConfig:
        """The model's config with its preprocess written out."""
        return config.model_copy(update={"preprocess": self.preprocess or "none"})

    def pipe(self) -> Preprocess:
        """A fresh module of its preprocess."""
        return Preprocess(self.preprocess)


@dataclass(frozen=True)
class Materials:
    """What a recipe names, as objects: given by the user in Python, or gathered from the recipe."""

    data: DataPair
    student: nn.Module
    objectives: Sequence[Objective[Any]]
    teacher: nn.Module | None = None


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


def gather(recipe: Recipe) -> Materials:
    """Make all that a recipe names.

    Raises:
        BadInput: something cannot be found, read or made.
    """
    data = load(recipe.data)
    teacher = None
    if recipe.teacher is not None:
        if recipe.teacher.weights is None and ":" not in recipe.teacher.name:
            raise BadInput("teacher.weights", None, "a file of weights: a teacher with random weights teaches nothing")
        teacher = build_model(recipe.teacher, data.train, "teacher")
    with seeded(recipe.seed, "student-init"):
        student = build_model(recipe.student, data.train, "student")
    with seeded(recipe.seed, "connector-init"):
        objectives = build_objectives(recipe.objectives)
    return Materials(data, student, objectives, teacher)


def dress(model: nn.Module, config: ModelConfig, data: ImageSet, field: str) -> Dressed:
    """A model with its preprocess resolved, tried on two images so that what does not fit is told before training.

    Raises:
        BadInput: the model fails on the images, or gives a wrong number of logits.
    """
    settled = resolve_preprocess(config.preprocess, channels=data.channels, is_pixels=data.is_pixels)
    dressed = Dressed(model, settled, config.name)
    order = dressed.class_order
    if order is not None and len(order) != data.num_classes:
        where = f"{field}.preprocess.class_order"
        raise BadInput(where, order, f"{data.num_classes} columns, one a class of {data.name}")
    was_training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(dressed.pipe()(data.images[:2]))
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        shape = "×".join(map(str, data.images.shape[1:]))
        raise BadInput(field, config.name, f"a model that takes images of {shape} ({shorten(reason, 160)})") from None
    finally:
        model.train(was_training)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise BadInput(field, config.name, f"a model that gives logits [batch, classes], not {got}")
    columns = reorder_classes(logits, dressed.class_order).shape[1]
    if columns != data.num_classes:
        raise BadInput(field, config.name, f"{data.num_classes} logits, one a class of {data.name}, not {columns}")
    return dressed


def evaluate_model(
    config: ModelConfig, data: ImageSet, *, device: str = "auto", observer: Observer | None = None
) -> dict[str, Any]:
    """Score a pretrained model on a split, in float32.

    Returns:
        ``top1``, ``correct``, ``count``, ``top5``, ``nll``, ``ece``, with their units of :class:`Score`.
    """
    observer = observer or Observer()
    here = resolve_device(device)
    dressed = dress(build_model(config, data, "model"), config, data, "model")
    return score(ask(dressed, data, here, observer, "evaluating"), data.labels).as_dict()


def ask(dressed: Dressed, data: ImageSet, device: torch.device, observer: Observer, what: str) -> Tensor:
    """The logits of a model for every image of a split, float32 [N, K] on the CPU, in the data's class order."""
    model = dressed.model.to(device)
    return predict(
        model,
        dressed.pipe().to(device),
        data.images,
        device=device,
        class_order=dressed.class_order,
        on_batch=lambda done: observer.phase(what, done, len(data)),
    )


def size(dressed: Dressed, data: ImageSet) -> dict[str, int]:
    """Parameters, multiply-adds of one image, and bytes of the weights on disk."""
    device = next(dressed.model.parameters()).device
    example = dressed.pipe()(data.images[:1]).to(device)
    return {
        "parameters": parameters(dressed.model),
        "multiply_adds": multiply_adds(dressed.model, example),
        "bytes": state_bytes(dressed.model),
    }
