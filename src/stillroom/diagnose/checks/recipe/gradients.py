"""Gradient norms of the loss terms in the student's weights, before training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stillroom.data.config import AugmentationConfig
from stillroom.data.images import DataPair, ImageSet
from stillroom.data.loader import Batch, BatchLoader
from stillroom.diagnose.check import Skip
from stillroom.diagnose.checks.recipe.input_repair import ImageSample
from stillroom.losses.base import Loss
from stillroom.models.prepared import PreparedModel
from stillroom.randomness import seed_rng
from stillroom.run.setting import RunContext
from stillroom.run.teaching import ModelTutor
from stillroom.runtime import Observer
from stillroom.teachers.config import CacheConfig
from stillroom.teachers.knowledge import ModelOutput
from stillroom.train.folder import NullRunFolder
from stillroom.train.step import DistillStep

# As many images as a large batch: a gradient's noise is then well below its size.
IMAGES = 128


@dataclass(frozen=True)
class GradientNorms:
    """Norms of gradients in the student's weights, over one batch, each before its weight in the loss.

    Attributes:
        terms: of each term of the loss, by its name.
        plain: of cross-entropy with the labels alone, for which the usual learning rates are.
        cosines: of each term's gradient with that one.
    """

    terms: dict[str, float]
    plain: float
    cosines: dict[str, float]


def measure_gradients(
    setting: RunContext,
    sample: ImageSample,
    student: PreparedModel,
    losses: Sequence[Loss[Any]],
    teacher_output: Callable[[int], ModelOutput | None],
) -> GradientNorms:
    """The gradients of the student's first step, one for each term; nothing is changed by it.

    Args:
        setting: device and recipe of the run.
        sample: training images.
        student: the student before training.
        losses: the terms, set up with both models.
        teacher_output: what the teacher gives for so many of the images; None where no term reads it.
    """
    count = min(IMAGES, len(sample))
    model = copy.deepcopy(student.model).train()
    step = DistillStep(model, [copy.deepcopy(term) for term in losses], student.preprocess()).to(setting.device).train()
    images = sample.images[:count].to(setting.device)
    labels = sample.labels[:count].to(setting.device)
    index = torch.from_numpy(sample.rows[:count]).to(setting.device)
    given = teacher_output(count)
    outputs: list[Tensor] = []
    handle = model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        with seed_rng(setting.recipe.seed, "dropout"):
            _, values = step(images, labels, index, given, 0.0)
    finally:
        handle.remove()
    logits = step.preprocess.reorder(outputs[-1])
    weights = [p for p in model.parameters() if p.requires_grad]
    plain = _gradient(F.cross_entropy(logits.float(), labels), weights)
    terms, cosines = {}, {}
    for name, value in zip(step.names, values, strict=True):
        gradient = _gradient(value, weights)
        norm = float(gradient.norm())
        if not gradient.isfinite().all():
            raise Skip(f"The gradient of {name} is not finite before training.")
        terms[name] = norm
        cosines[name] = float(gradient @ plain) / max(norm * float(plain.norm()), 1e-30)
    return GradientNorms(terms, float(plain.norm()), cosines)


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


def all_of_teacher(
    setting: RunContext, sample: ImageSample, losses: Sequence[Loss[Any]], teacher: PreparedModel, count: int
) -> ModelOutput:
    """Everything of the teacher that the terms read, for the sample's first images."""
    data = setting.data.train
    # A data set of its own, so that means over all images are means over these.
    batch = ImageSet(sample.images[:count], sample.labels[:count], data.class_names, data.name)
    plain = setting.recipe.data.model_copy(update={"augmentation": AugmentationConfig()})
    recipe = setting.recipe.model_copy(update={"data": plain, "cache": CacheConfig(enabled=False)})
    own = RunContext(recipe, DataPair(batch, batch), setting.device, "float32", setting.processes, Observer())
    tutor = ModelTutor(teacher, own, [term.requires for term in losses])
    loader = BatchLoader(batch, AugmentationConfig(), setting.device)
    answers = tutor.in_training(loader, 1, NullRunFolder(Path()))
    rows = torch.arange(count)
    return answers(Batch(loader.images[:count], loader.labels, rows, rows.numpy(), 0))
