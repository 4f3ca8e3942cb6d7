"""From a recipe to a :class:`Case`: what a run would refuse is refused, but for what a check can explain."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from stillroom.data.augmentation import check_augmentable
from stillroom.data.images import DataPair, ImageSet
from stillroom.data.loader import BatchSampler
from stillroom.data.sources import load
from stillroom.diagnose.checks.recipe.case import Case
from stillroom.errors import BadInput
from stillroom.models.config import ModelConfig
from stillroom.models.modes import device_of, eval_mode
from stillroom.models.prepared import PreparedModel, prepare_model
from stillroom.models.preprocess import resolve_preprocess
from stillroom.models.registry import build
from stillroom.models.weights import load_weights, read_state
from stillroom.observer import Observer
from stillroom.recipe import Recipe
from stillroom.run.build import setup_losses
from stillroom.run.components import RunComponents, build_components
from stillroom.run.context import RunContext
from stillroom.run.resolve import uses_cache
from stillroom.runtime import Processes
from stillroom.train.device import resolve_device, resolve_precision


def open_case(
    recipe: Recipe, *, images: int, observer: Observer | None = None, components: RunComponents | None = None
) -> Case:
    """Gather what a recipe names and try its parts on the data, as a run does before it begins.

    Args:
        recipe: what would be run.
        images: how many training images are looked at, at the most.
        observer: told how it goes.
        components: the objects that the recipe names; gathered from it where left out.

    Raises:
        BadInput: a run would refuse it, and no check can say more than that.
    """
    observer = observer or Observer()
    if recipe.teachers is not None:
        raise BadInput("teachers", list(recipe.teachers), "one `teacher`: a diagnosis examines a single one")
    device = resolve_device(recipe.training.device)
    precision = resolve_precision(recipe.training.precision, device)
    if components is None:
        observer.phase("reading the data", 0, 1)
        try:
            data = load(recipe.data)
        finally:
            observer.phase("reading the data", 1, 1)
        components = _gathered(recipe, data)
    train = components.data.train
    check_augmentable(train, recipe.data.augmentation)
    steps = BatchSampler(len(train), recipe.data.batch_size, recipe.seed).steps_per_epoch
    student = prepare_model(components.student.to(device), recipe.student, train, "student")
    setting = RunContext(
        recipe=recipe,
        data=components.data,
        device=device,
        precision=precision,
        processes=Processes(),
        observer=Observer(),
    )
    teacher, columns = None, None
    if recipe.teacher is not None and "teacher" in components.teachers and recipe.teacher.logits is None:
        teacher, columns = _dressed(components.teachers["teacher"].to(device), recipe.teacher, train)
    setup_losses(components.losses, setting, student, {"teacher": teacher} if teacher is not None else {})
    reads = any(term.requires.teacher for term in components.losses)
    if reads and recipe.teacher is None:
        raise BadInput("teacher", None, "a model: a loss reads its answers")
    uses_cache(recipe, reads_teacher=reads, epochs=-(-recipe.training.total_steps(steps) // steps))
    return Case(setting, student, components.losses, teacher, columns, images=images, phase=observer.phase)


def _gathered(recipe: Recipe, data: DataPair) -> RunComponents:
    """All that the recipe names; of a teacher whose weights are for other classes, all of its logits."""
    try:
        return build_components(recipe, data)
    except BadInput as error:
        wide = _of_other_classes(recipe, data.train) if error.field == "teacher.weights" else None
        if wide is None:
            raise
        return replace(build_components(recipe.model_copy(update={"teacher": None}), data), teachers={"teacher": wide})


def _of_other_classes(recipe: Recipe, data: ImageSet) -> nn.Module | None:
    """The teacher with as many logits as its weights are for; None where that is not what is wrong with them."""
    config = recipe.teacher
    if config is None or config.weights is None:
        return None
    size = getattr(config.preprocess, "size", None) or data.image_size

    def made(classes: int) -> nn.Module:
        return build(config, num_classes=classes, in_channels=data.channels, image_size=size)

    try:
        state = read_state(config.weights, field="teacher.weights")
        for columns in _other_columns(made(data.num_classes), state, data.num_classes):
            model = made(columns)
            load_weights(model, config.weights, field="teacher")
            return model
    except BadInput:
        return None
    return None


def _other_columns(model: nn.Module, found: dict[str, Tensor], classes: int) -> list[int]:
    """Numbers of logits that a file's tensors are of, where they differ from the model's in that alone."""
    columns: list[int] = []
    for name, tensor in model.state_dict().items():
        others = (t for key, t in found.items() if key == name or key.endswith(f".{name}"))
        other = next(others, None)
        if other is None or not tensor.dim() or other.dim() != tensor.dim() or len(tensor) != classes:
            continue
        if other.shape[1:] == tensor.shape[1:] and len(other) != classes:
            columns.append(len(other))
    return list(dict.fromkeys(columns)) if len(set(columns)) == 1 else []


def _dressed(model: nn.Module, config: ModelConfig, data: ImageSet) -> tuple[PreparedModel, int]:
    """The teacher tried on two images, and the number of its logits, which may be of other classes.

    Raises:
        BadInput: it fails on the images.
    """
    settled = resolve_preprocess(config.preprocess, channels=data.channels, is_pixels=data.is_pixels, field="teacher")
    prepared = PreparedModel(model, settled, data.is_pixels, config.name)
    try:
        return prepare_model(model, config, data, "teacher"), _columns(prepared, data)
    except BadInput:
        try:
            columns = _columns(prepared, data)
        except Exception:  # the first error tells it
            columns = data.num_classes
        if columns == data.num_classes or (settled is not None and settled.class_order is not None):
            raise
        return prepared, columns


def _columns(prepared: PreparedModel, data: ImageSet) -> int:
    with torch.no_grad(), eval_mode(prepared.model):
        logits = prepared.model(prepared.preprocess()(data.images[:2]).to(device_of(prepared.model)))
    return int(logits.shape[1]) if logits.dim() == 2 else data.num_classes
