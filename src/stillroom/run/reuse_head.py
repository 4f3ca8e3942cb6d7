"""Gives the student its teacher's last layer, where a loss asks for it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from stillroom.errors import BadInput
from stillroom.losses.setup_context import SetupContext
from stillroom.models.config import ReusedHeadConfig
from stillroom.models.modes import device_of, eval_mode
from stillroom.models.prepared import with_layout
from stillroom.models.reader import FEATURES, TapReader
from stillroom.models.reused_head import ReusedHead
from stillroom.models.tail import find_head, logits_match
from stillroom.models.weights import state_hash
from stillroom.recipe import Recipe
from stillroom.run.build import model_info
from stillroom.run.components import RunComponents


def reuse_head(recipe: Recipe, components: RunComponents) -> tuple[Recipe, RunComponents]:
    """The recipe and its components with a student that ends in its teacher's last layer, if a loss requires that.

    Args:
        recipe: resolved; ``student.reused_head`` is written out.
        components: the student in them is left as it is; another takes its place. Their ``init_hash`` stays that of the
            student as it was, which every method of a seed shares.

    Raises:
        BadInput: the teacher is no model that ends in a linear layer, or knows some of the classes only.
    """
    loss = next((loss for loss in components.losses if loss.reuses_head), None)
    if loss is None:
        return recipe, components
    field, teachers = f"losses.{loss.name}", recipe.all_teachers
    name = loss.config.teacher or next(iter(teachers), "")
    teacher = components.teachers.get(name)
    if teacher is None or teachers[name].logits is not None:
        place, expected = recipe.teacher_field(name), f"a model: loss {loss.name!r} takes its last layer over"
        logits = teachers[name].logits if name else None
        raise BadInput(place if logits is None else f"{place}.logits", logits or name or None, expected)
    if components.num_teacher_classes is not None:
        raise BadInput(field, loss.name, "another: the teacher's last layer does not know all classes")
    train = components.data.train
    both = (
        with_layout(components.student, recipe.student, train, "student"),
        with_layout(teacher, teachers[name], train, "teacher"),
    )
    student, reused = both
    if student.preprocess().order is not None:
        expected = "none: the teacher's last layer has the data's order"
        raise BadInput("student.preprocess.class_order", recipe.student.preprocess, expected)
    infos = model_info(student, train.images, "student"), model_info(reused, train.images, "teacher")
    context = SetupContext(*infos, num_classes=train.num_classes, seed=recipe.seed)
    path = find_head(teacher, infos[1].example())
    layer = teacher.get_submodule(path) if path else teacher
    if not isinstance(layer, nn.Linear):
        expected = f"a model that ends in a linear layer, which {loss.name} takes over"
        raise BadInput(recipe.teacher_field(name), teachers[name].name, expected)
    config = recipe.student.reused_head or _choose(context, loss.config.factor)
    with context.seeded(loss.config.name, config.tap, config.teacher_tap):
        made = ReusedHead(components.student, config, infos[0].example(), train.num_classes)
    order = reused.preprocess_config.class_order if reused.preprocess_config is not None else None
    rows = list(range(layer.out_features)) if order is None else [each for each in order if isinstance(each, int)]
    if len(rows) != train.num_classes:
        raise BadInput(field, loss.name, "another: the teacher's last layer has no row for each class of the data")
    made.set_head(layer.weight[rows].detach().cpu(), None if layer.bias is None else layer.bias[rows].detach().cpu())
    made.to(device_of(components.student))
    return (
        recipe.model_copy(update={"student": recipe.student.model_copy(update={"reused_head": config})}),
        replace(components, student=made, init_hash=state_hash(components.student)),
    )


def _choose(context: SetupContext, factor: int) -> ReusedHeadConfig:
    """Compare the last maps of both if the teacher's features are the mean of its map, else the features."""
    pairs = [pair for pair in context.pairs if all(tap.kind == "map" and not tap.channels_last for tap in pair)]
    teacher = context.teacher
    if pairs:
        last, student = pairs[-1]
        taps, inputs = TapReader(teacher.model, [last.name, FEATURES], field="teacher"), teacher.example()
        with torch.no_grad(), eval_mode(teacher.model), taps:
            teacher.model(inputs)
        read = taps.take()
        mean = read[last.name].mean((2, 3))
        if read[FEATURES].shape == mean.shape and logits_match(mean, read[FEATURES]):
            return ReusedHeadConfig(
                teacher_tap=last.name, tap=student.name, channels=last.shape[0], grid=last.resolution, factor=factor
            )
    ((last, student),) = context.choose_pairs("features", field="losses.taps")
    return ReusedHeadConfig(teacher_tap=last.name, tap=student.name, channels=last.shape[0], factor=factor)
