"""What a recipe names, as objects that were tried on the data before anything is trained or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stillroom.data.images import DataPair, ImageSet
from stillroom.data.sources import load
from stillroom.errors import BadInput, format_error
from stillroom.losses.base import Loss
from stillroom.losses.registry import build_losses
from stillroom.models.config import ModelConfig, PreprocessConfig
from stillroom.models.cost import multiply_adds, parameters
from stillroom.models.modes import device_of, eval_mode
from stillroom.models.preprocess import Preprocess, class_index, resolve_preprocess
from stillroom.models.registry import brings_weights, build
from stillroom.models.weights import load_weights, state_bytes
from stillroom.randomness import seeded
from stillroom.recipe import Recipe
from stillroom.train.device import Processes, exact_float32, resolve_device
from stillroom.train.evaluation import predict, score
from stillroom.train.observer import Observer


@dataclass(frozen=True)
class PreparedModel:
    """A model with what its input goes through: all that is needed to ask it about the data's images.

    Attributes:
        model: the model itself.
        preprocess: settled; None gives it the images as they are.
        is_pixels: whether the data's images are uint8.
        name: what reports call it.
    """

    model: nn.Module
    preprocess: PreprocessConfig | None
    is_pixels: bool
    name: str

    def settled(self, config: ModelConfig) -> ModelConfig:
        """The model's config with its preprocess written out."""
        return config.model_copy(update={"preprocess": self.preprocess or "none"})

    def pipe(self) -> Preprocess:
        """A fresh module of its preprocess."""
        return Preprocess(self.preprocess, is_pixels=self.is_pixels)


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
    with seeded(recipe.seed, "student-init"):
        student = build_model(recipe.student, data.train, "student")
    with seeded(recipe.seed, "connector-init"):
        losses = build_losses(recipe.losses)
    return RunComponents(data, student, losses, teacher)


def prepare_model(
    model: nn.Module, config: ModelConfig, data: ImageSet, field: str, classes: int | None = None
) -> PreparedModel:
    """A model with its preprocess resolved, tried on two images so that what does not fit is told before training.

    Args:
        model: the model.
        config: its config.
        data: images that it is for.
        field: what messages call it.
        classes: how many logits it gives; left out: one for each class of the data.

    Raises:
        BadInput: the model fails on the images, or gives a wrong number of logits.
    """
    settled = resolve_preprocess(config.preprocess, channels=data.channels, is_pixels=data.is_pixels, field=field)
    prepared = PreparedModel(model, settled, data.is_pixels, config.name)
    classes = data.num_classes if classes is None else classes
    pipe = prepared.pipe()
    try:
        with torch.no_grad(), eval_mode(model):
            logits = model(pipe(data.images[:2]).to(device_of(model)))
    except Exception as error:
        shape = "×".join(map(str, data.images.shape[1:]))
        raise BadInput(
            field, config.name, f"a model that takes images of {shape}; it raised {format_error(error)}"
        ) from None
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise BadInput(field, config.name, f"a model that gives logits [batch, classes], not {got}")
    if settled is not None and settled.class_order is not None:
        class_index(settled.class_order, columns=logits.shape[1], classes=classes, field=field)
    elif logits.shape[1] != classes:
        wanted = f"{classes} logits, one a class of {data.name}, not {logits.shape[1]}"
        raise BadInput(field, config.name, f"{wanted}; preprocess.class_order picks columns")
    return prepared


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
        return score(ask(prepared, data, here, observer, "evaluating"), data.labels).as_dict()


def ask(
    prepared: PreparedModel,
    data: ImageSet,
    device: torch.device,
    observer: Observer,
    what: str,
    processes: Processes | None = None,
) -> Tensor:
    """The logits of a model for every image of a split, float32 [N, K] on the CPU, in the data's class order."""
    return predict(
        prepared.model,
        prepared.pipe().to(device),
        data.images,
        device=device,
        processes=processes,
        on_batch=lambda done: observer.phase(what, done, len(data)),
    )


def size(prepared: PreparedModel, data: ImageSet) -> dict[str, int]:
    """Parameters, multiply-adds of one image, and bytes of the weights on disk."""
    example = prepared.pipe()(data.images[:1]).to(device_of(prepared.model))
    return {
        "parameters": parameters(prepared.model),
        "multiply_adds": multiply_adds(prepared.model, example),
        "bytes": state_bytes(prepared.model),
    }
