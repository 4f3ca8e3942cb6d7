"""How hard each term of the loss pulls at the student as it begins."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stillroom.data.config import AugmentationConfig
from stillroom.data.images import DataPair, ImageSet
from stillroom.data.loader import Batch, BatchLoader
from stillroom.diagnose.checks.recipe.parts import Skip
from stillroom.losses.base import Loss
from stillroom.observer import Observer
from stillroom.randomness import seed_rng
from stillroom.run.build import build_teacher, request_of
from stillroom.run.context import RunContext
from stillroom.teachers.config import CacheConfig
from stillroom.teachers.output import ModelOutput
from stillroom.train.step import DistillStep

if TYPE_CHECKING:
    from stillroom.diagnose.checks.recipe.case import Case

# As many images as a large batch: a gradient's noise is then well below its size.
IMAGES = 128


@dataclass(frozen=True)
class Gradients:
    """Norms of gradients in the student's weights, over one batch, each before its weight in the loss.

    Attributes:
        terms: of each term of the loss, by its name.
        plain: of the labels' cross-entropy alone, which the usual learning rates were found with.
        cosines: of each term's gradient with that one.
    """

    terms: dict[str, float]
    plain: float
    cosines: dict[str, float]


def measure(case: Case) -> Gradients:
    """The gradients of the student's first step, each term apart; nothing is changed by it."""
    count = min(IMAGES, len(case.sample))
    setting = case.setting
    student = case.student_copy()
    losses = [copy.deepcopy(term) for term in case.losses]
    step = DistillStep(student, losses, case.student.preprocess()).to(setting.device).train()
    images = case.sample.images[:count].to(setting.device)
    labels = case.sample.labels[:count].to(setting.device)
    index = torch.from_numpy(case.sample.rows[:count]).to(setting.device)
    outputs = {"teacher": _taught(case, count)} if case.teaching else {}
    seen: list[Tensor] = []
    handle = student.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        with seed_rng(case.recipe.seed, "dropout"):
            _, values = step(images, labels, index, outputs, 0.0)
    finally:
        handle.remove()
    logits = step.preprocess.reorder(seen[-1])
    weights = [p for p in student.parameters() if p.requires_grad]
    plain = _gradient(F.cross_entropy(logits.float(), labels), weights)
    terms, cosines = {}, {}
    for name, value in zip(step.names, values, strict=True):
        pull = _gradient(value, weights)
        size = float(pull.norm())
        if not pull.isfinite().all():
            raise Skip(f"The gradient of {name} is not finite as the student begins.")
        terms[name] = size
        cosines[name] = float(pull @ plain) / max(size * float(plain.norm()), 1e-30)
    return Gradients(terms, float(plain.norm()), cosines)


def _gradient(value: Tensor, weights: Sequence[Tensor]) -> Tensor:
    if not value.requires_grad:
        return torch.zeros(sum(w.numel() for w in weights), dtype=torch.float64)
    parts = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
    flat = [
        (torch.zeros_like(w) if part is None else part).flatten().double().cpu()
        for part, w in zip(parts, weights, strict=True)
    ]
    return torch.cat(flat)


def _taught(case: Case, count: int) -> ModelOutput:
    """What the mended teacher says of the batch: all that the terms read."""
    if not any(_reads_inside(term) for term in case.losses):
        return ModelOutput(case.teacher_logits[:count].to(case.setting.device))
    data = case.setting.data.train
    # A set of its own, so that means over all images are means over these.
    batch = ImageSet(case.sample.images[:count], case.sample.labels[:count], data.class_names, data.name)
    plain = case.recipe.data.model_copy(update={"augmentation": AugmentationConfig()})
    recipe = case.recipe.model_copy(update={"data": plain, "cache": CacheConfig(enabled=False)})
    here = case.setting
    context = RunContext(
        recipe=recipe,
        data=DataPair(batch, batch),
        device=here.device,
        precision="float32",
        processes=here.processes,
        observer=Observer(),
    )
    source = build_teacher(context, case.mended_teacher(), request_of(case.losses))
    loader = BatchLoader(batch, AugmentationConfig(), case.setting.device)
    teacher = source.training_teacher(loader, 1)
    rows = torch.arange(count)
    return teacher(Batch(loader.images[:count], loader.labels, rows, rows.numpy(), 0))


def _reads_inside(term: Loss[Any]) -> bool:
    reads = term.requires
    return bool(reads.teacher_features or reads.tails or reads.fishers)
