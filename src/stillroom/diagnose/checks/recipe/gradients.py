"""Gradient norms of the loss terms in the student's weights, before training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stillroom.data.config import AugmentationConfig
from stillroom.data.images import DataPair, ImageSet
from stillroom.data.loader import Batch, BatchLoader
from stillroom.diagnose.checks.recipe.input_repair import SplitSample
from stillroom.errors import BadInput
from stillroom.losses.base import Loss
from stillroom.losses.binary_cross_entropy import binary_cross_entropy
from stillroom.models.prepared import PreparedModel
from stillroom.observer import Observer
from stillroom.randomness import seed_rng
from stillroom.run.build import build_teacher, request_of, with_class_means
from stillroom.run.context import RunContext
from stillroom.tasks import Task
from stillroom.teachers.config import CacheConfig
from stillroom.teachers.output import ModelOutput
from stillroom.teachers.source import Teacher
from stillroom.train.step import DistillStep

# As many images as a large batch: a gradient's noise is then well below its size.
IMAGES = 128


@dataclass(frozen=True)
class GradientNorms:
    """Norms of gradients in the student's weights, over one batch, each before its weight in the loss."""

    terms: dict[str, float]  # of each term of the loss, by its name
    plain: float  # of cross-entropy with the labels alone, for which the usual learning rates are
    cosines: dict[str, float]  # of each term's gradient with that one
    values: dict[str, float] = field(default_factory=dict)  # of each term
    # Of each term that reads the teacher's logits alone, how far its gradient moves with the logits of other images, as
    # a share of its norm.
    moved: dict[str, float] = field(default_factory=dict)
    faulty: str | None = None  # the term that cannot be computed, if there is one; nothing else is known then
    problem: str | None = None  # what is wrong with it, in a sentence


def measure_gradients(
    run_context: RunContext,
    sample: SplitSample,
    student: PreparedModel,
    losses: Sequence[Loss[Any]],
    teacher_output: Callable[[int], ModelOutput | None],
) -> GradientNorms:
    """The gradients of the student's first step, one for each term; nothing is changed by it.

    Args:
        run_context: device and recipe of the run.
        sample: training images.
        student: the student before training.
        losses: the terms, set up with both models.
        teacher_output: what the teacher gives for so many of the images; None where no term reads it.
    """
    count = min(IMAGES, len(sample))
    model = copy.deepcopy(student.model).train()
    step = (
        DistillStep(model, [copy.deepcopy(term) for term in losses], student.preprocess())
        .to(run_context.device)
        .train()
    )
    images = sample.images[:count].to(run_context.device)
    labels = sample.labels[:count].to(run_context.device)
    index = torch.from_numpy(sample.rows[:count]).to(run_context.device)
    given = teacher_output(count)
    teachers = {"teacher": given} if given is not None else {}
    outputs: list[Tensor] = []
    handle = model.register_forward_hook(lambda module, inputs, output: outputs.append(output))

    def run(answers: Mapping[str, ModelOutput]) -> list[Tensor]:
        with seed_rng(run_context.recipe.seed, "dropout"):
            _, values = step(images, labels, index, answers, 0.0)
        return [*values]

    try:
        values = run(teachers)
    except BadInput as error:
        return GradientNorms({}, 0.0, {}, faulty=error.field.removeprefix("losses."), problem=f"{error}.")
    finally:
        handle.remove()
    logits = step.preprocess.reorder(outputs[-1])
    weights = [p for p in model.parameters() if p.requires_grad]
    plain = _gradient(_plain_loss(run_context.data.train.task, logits.float(), labels), weights)
    norms, cosines, gradients = {}, {}, {}
    for name, value in zip(step.names, values, strict=True):
        gradient = gradients[name] = _gradient(value, weights)
        norm = float(gradient.norm())
        for what, is_finite in (("value", bool(value.isfinite())), ("gradient", bool(gradient.isfinite().all()))):
            if not is_finite:
                problem = f"The {what} of {name} is not finite before training."
                return GradientNorms({}, 0.0, {}, faulty=name, problem=problem)
        norms[name] = norm
        cosines[name] = float(gradient @ plain) / max(norm * float(plain.norm()), 1e-30)
    moved = {}
    reading = [term.name for term in losses if term.requires.teacher and not term.requires.class_means]
    if given is not None and reading and count > 1 and not reads_features(losses):
        others = run({"teacher": replace(given, logits=given.logits.roll(1, 0))})
        for name, value in zip(step.names, others, strict=True):
            if name in reading:
                change = float((_gradient(value, weights) - gradients[name]).norm())
                moved[name] = change / max(norms[name], 1e-30)
    numbers = {name: float(value.detach()) for name, value in zip(step.names, values, strict=True)}
    return GradientNorms(norms, float(plain.norm()), cosines, numbers, moved)


def _plain_loss(task: Task, outputs: Tensor, labels: Tensor) -> Tensor:
    """What labels alone are learned by."""
    if task == "single_label":
        return F.cross_entropy(outputs, labels)
    return F.mse_loss(outputs, labels) if task == "regression" else binary_cross_entropy(outputs, labels)


def _gradient(value: Tensor, weights: Sequence[Tensor]) -> Tensor:
    if not value.requires_grad:
        return torch.zeros(sum(w.numel() for w in weights), dtype=torch.float64)
    parts = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
    flat = [
        (torch.zeros_like(w) if part is None else part).flatten().double().cpu()
        for part, w in zip(parts, weights, strict=True)
    ]
    return torch.cat(flat)


def reads_features(losses: Sequence[Loss[Any]]) -> bool:
    """Whether a term reads more of the teacher than its logits."""
    return any(term.requires.teacher_features or term.requires.tails or term.requires.fishers for term in losses)


def logits_of_teacher(
    run_context: RunContext, sample: SplitSample, losses: Sequence[Loss[Any]], logits: Tensor
) -> ModelOutput:
    """The teacher's logits for the sample's first images, and its mean answers to them where a term reads these."""
    images = _as_set(run_context, sample, len(logits))
    loader = BatchLoader(images, AugmentationConfig(), run_context.device)
    return _output(lambda batch: ModelOutput(logits[batch.index]), loader, images, losses)


def all_of_teacher(
    run_context: RunContext, sample: SplitSample, losses: Sequence[Loss[Any]], teacher: PreparedModel, count: int
) -> ModelOutput:
    """Everything of the teacher that the terms read, for the sample's first images."""
    images = _as_set(run_context, sample, count)
    plain = run_context.recipe.data.model_copy(update={"augmentation": AugmentationConfig()})
    recipe = run_context.recipe.model_copy(update={"data": plain, "cache": CacheConfig(enabled=False)})
    own = RunContext(
        recipe=recipe,
        data=DataPair(images, images),
        device=run_context.device,
        precision="float32",
        processes=run_context.processes,
        observer=Observer(),
    )
    source = build_teacher(own, teacher, request_of(losses))
    loader = BatchLoader(images, AugmentationConfig(), run_context.device)
    return _output(source.training_teacher(loader, 1), loader, images, losses)


def _as_set(run_context: RunContext, sample: SplitSample, count: int) -> ImageSet:
    """A data set of its own of the sample's first images, so that means over all images are means over these."""
    data = run_context.data.train
    images, labels = sample.images[:count], sample.labels[:count]
    return ImageSet(images, labels, data.class_names, data.name, tokens=data.tokens, task=data.task)


def _output(teacher: Teacher, loader: BatchLoader, images: ImageSet, losses: Sequence[Loss[Any]]) -> ModelOutput:
    """What a teacher gives for a whole set, with its mean answers to each class where a term reads these."""
    rows = torch.arange(len(images))
    batch = Batch(loader.images[:], loader.labels, rows, rows.numpy(), 0)
    return with_class_means(teacher, loader, images, losses)(batch)
