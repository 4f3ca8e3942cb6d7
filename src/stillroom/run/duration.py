"""How long a training will take here, from a few images: for a plan that is said before it begins."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from stillroom.data.config import AugmentationConfig
from stillroom.data.images import ImageSet
from stillroom.data.loader import BatchLoader
from stillroom.models.config import ModelConfig
from stillroom.models.prepared import with_layout
from stillroom.randomness import seed_rng
from stillroom.run.components import build_model
from stillroom.train.config import TrainingConfig
from stillroom.train.device import (
    autocast,
    exact_float32,
    resolve_device,
    resolve_precision,
    resolve_threads,
    threads,
    written_out,
)
from stillroom.train.optimisation import build_optimizer

_IMAGES = 8


@dataclass(frozen=True)
class Speed:
    """Seconds that a model takes for an image."""

    answer: float  # forward, as in evaluation
    learn: float  # forward and backward; 0 where it was not measured


def measure_speed(
    config: ModelConfig,
    data: ImageSet,
    training: TrainingConfig,
    field: str,
    *,
    learns: bool,
    batch: int,
    patience: float,
) -> Speed:
    """Time a model with random weights on a few images of the data, then on a batch.

    An image takes longer in a batch, whose features no longer fit into the processor's caches and whose memory is asked
    of the system anew at each step.

    Args:
        config: the model; its weights are not read.
        data: training images.
        training: where and how it would be trained.
        field: what errors call the model.
        learns: whether steps of training are timed, too.
        batch: images of a step.
        patience: seconds that a pass over a batch may take; where it would take longer, a few images have to do.
    """
    device = resolve_device(training.device)
    with threads(resolve_threads(training.threads)), exact_float32(), seed_rng(0, "student-init"):
        model = build_model(config.without_weights(), data, field).to(device)
        prepared = with_layout(model, config, data, field)
        model = prepared.model
        precision = written_out(resolve_precision(training, device, model).precision)
        optimizer = build_optimizer([model], training.optimizer)

        def answer(images: Tensor) -> None:
            with torch.no_grad():
                model(images)

        def learn(images: Tensor) -> None:
            with autocast(device, precision):
                outputs = model(images)
            outputs.float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        def timed(work: Callable[[Tensor], None]) -> float:
            few = prepared.inputs(data.images[:_IMAGES])
            found = _seconds(partial(work, few), device) / len(few)
            if len(few) < batch and found * batch <= patience:
                # The same ones again, without reading more; torch.cat keeps their memory layout.
                whole = torch.cat([few] * math.ceil(batch / len(few)))[:batch]
                found = _seconds(partial(work, whole), device, repeats=1) / batch
            return found

        model.eval()
        forward = timed(answer)
        model.train()
        return Speed(forward, timed(learn) if learns else 0.0)


def measure_reading(data: ImageSet, augmentation: AugmentationConfig, training: TrainingConfig) -> float:
    """Seconds to read and augment a training image."""
    device = resolve_device(training.device)
    rows = np.arange(min(4 * _IMAGES, len(data)))
    with threads(resolve_threads(training.threads)):
        loader = BatchLoader(data, augmentation, device)
        return _seconds(lambda: list(loader.batches([(rows, 0)])), device) / len(rows)


def _seconds(work: Callable[[], object], device: torch.device, repeats: int = 2) -> float:
    """The lesser of two times: the first call may compile kernels."""
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - began)
    return min(found)
