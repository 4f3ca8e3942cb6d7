"""How long a training will take here, from a few images: for a plan that is said before it begins."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from stillroom.data.config import AugmentationConfig
from stillroom.data.images import ImageSet
from stillroom.data.loader import BatchLoader
from stillroom.models.config import ModelConfig
from stillroom.models.prepared import with_layout
from stillroom.randomness import seed_rng
from stillroom.run.components import build_model
from stillroom.train.config import TrainingConfig
from stillroom.train.device import autocast, exact_float32, resolve_device, resolve_precision, resolve_threads, threads

_IMAGES = 8


@dataclass(frozen=True)
class Speed:
    """Seconds that a model takes for an image."""

    answer: float  # forward, as in evaluation
    learn: float  # forward and backward; 0 where it was not measured


def measure_speed(config: ModelConfig, data: ImageSet, training: TrainingConfig, field: str, *, learns: bool) -> Speed:
    """Time a model with random weights on a few images of the data.

    Args:
        config: the model; its weights are not read.
        data: training images.
        training: where and how it would be trained.
        field: what errors call the model.
        learns: whether backward passes are timed, too.
    """
    device = resolve_device(training.device)
    precision = resolve_precision(training.precision, device)
    with threads(resolve_threads(training.threads)), exact_float32(), seed_rng(0, "student-init"):
        model = build_model(config.without_weights(), data, field).to(device)
        prepared = with_layout(model, config, data, field)
        model = prepared.model
        images = prepared.inputs(data.images[:_IMAGES])

        def answer() -> None:
            with torch.no_grad():
                model(images)

        def learn() -> None:
            with autocast(device, precision):
                outputs = model(images)
            outputs.float().square().mean().backward()

        model.eval()
        forward = _seconds(answer, device)
        model.train()
        return Speed(forward / len(images), _seconds(learn, device) / len(images) if learns else 0.0)


def measure_reading(data: ImageSet, augmentation: AugmentationConfig, training: TrainingConfig) -> float:
    """Seconds to read and augment a training image."""
    device = resolve_device(training.device)
    rows = np.arange(min(4 * _IMAGES, len(data)))
    with threads(resolve_threads(training.threads)):
        loader = BatchLoader(data, augmentation, device)
        return _seconds(lambda: list(loader.batches([(rows, 0)])), device) / len(rows)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The lesser of two times: the first call may compile kernels."""
    found = []
    for _ in range(2):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - began)
    return min(found)
