"""A model with the preprocess of its input: checked on the data, queried for logits, measured for size."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stillroom.data.images import ImageSet, LazyImages
from stillroom.data.tokens import by_length, is_tokens
from stillroom.errors import BadInput, format_error
from stillroom.memory import in_parts
from stillroom.models.config import ModelConfig, PreprocessConfig
from stillroom.models.cost import multiply_adds, parameters
from stillroom.models.fuse import answering_copy
from stillroom.models.modes import device_of, eval_mode
from stillroom.models.preprocess import Preprocess, class_index, resolve_preprocess
from stillroom.models.transformers import take_ids
from stillroom.models.weights import state_bytes
from stillroom.observer import Observer
from stillroom.runtime import Processes

# Small images in more at once no longer fit into a processor's caches: 500 take a quarter longer each.
EVALUATION_BATCH = 250
# From so many images on a faster copy of the model saves more than it takes to make.
_WORTH_A_COPY = 2000


@dataclass(frozen=True)
class PreparedModel:
    """A model with the preprocess of its input: all that a query about the data's images needs."""

    model: nn.Module
    preprocess_config: PreprocessConfig | None  # resolved; None gives the model the images as they are
    is_pixels: bool  # whether the data's images are uint8
    name: str
    channels_last: bool = True  # whether the model takes its input in channels-last memory

    def preprocess(self) -> Preprocess:
        """A fresh module of its preprocess, on the CPU."""
        return Preprocess(self.preprocess_config, is_pixels=self.is_pixels, channels_last=self.channels_last)

    def inputs(self, images: Tensor) -> Tensor:
        """The model's input for a few raw images, on its device."""
        made: Tensor = self.preprocess()(images)
        return made.to(device_of(self.model))

    def try_on(self, images: Tensor) -> Tensor:
        """The model's answer to a few raw images, in eval mode; any exception is the model's own."""
        with torch.no_grad(), eval_mode(self.model):
            logits: Tensor = self.model(self.inputs(images))
        return logits


def prepare_model(
    model: nn.Module, config: ModelConfig, data: ImageSet, field: str, classes: int | None = None
) -> PreparedModel:
    """Resolve a model's preprocess and try the model on two images.

    Args:
        classes: how many logits it gives; left out: one for each class of the data.
    """
    prepared = with_layout(model, config, data, field)
    resolved = prepared.preprocess_config
    classes = data.num_classes if classes is None else classes
    try:
        logits = prepared.try_on(data.images[:2])
    except Exception as error:
        shape, dtype = "×".join(map(str, data.images.shape[1:])), str(data.images.dtype).removeprefix("torch.")
        kind = f"{data.unit.many} of {shape}" + ("" if dtype in ("uint8", "float32") else f", {dtype}")
        expected = f"a model that takes {kind}; it raised {format_error(error)}"
        raise BadInput(field, config.name, expected) from None
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise BadInput(field, config.name, f"a model that gives logits [batch, classes], not {got}")
    if resolved is not None and resolved.class_order is not None:
        is_student = field == "student"
        class_index(resolved.class_order, columns=logits.shape[1], classes=classes, field=field, complete=is_student)
    elif logits.shape[1] != classes:
        wanted = f"{classes} logits, one a class of {data.name}, not {logits.shape[1]}"
        raise BadInput(field, config.name, f"{wanted}; preprocess.class_order picks columns")
    return prepared


def preprocess_for(data: ImageSet, config: ModelConfig, field: str, model: nn.Module | None) -> PreprocessConfig | None:
    """The preprocess of a model on some data, resolved; see :func:`resolve_preprocess`."""
    return resolve_preprocess(
        config.preprocess,
        channels=data.channels,
        is_pixels=data.is_pixels,
        is_text=data.tokens is not None,
        field=field,
        model=model,
    )


def with_layout(model: nn.Module, config: ModelConfig, data: ImageSet, field: str) -> PreparedModel:
    """Resolve a model's preprocess and the memory layout of its input.

    A model that calls ``view`` on a feature map fails on channels-last memory alone; it gets plain memory.
    """
    resolved = preprocess_for(data, config, field, model)
    model = take_ids(model) if data.tokens is not None else model
    prepared = PreparedModel(model, resolved, data.is_pixels, config.name)
    output = _answer(prepared, data)
    if output is None and data.images.ndim == 4:
        plain = replace(prepared, channels_last=False)
        output = _answer(plain, data)
        prepared = prepared if output is None else plain
    if output is not None and not isinstance(output, Tensor) and find_logits(output) is not None:
        return replace(prepared, model=_with_logits(model))
    return prepared


_LOGITS = ("logits", "out", "output")


def find_logits(output: Any) -> Tensor | None:
    """The logits in what a model gives: itself, ``logits`` of a dict or an object, the first of a tuple; else None.

    >>> find_logits({"logits": torch.zeros(2, 3), "hidden": 1}).shape, find_logits((torch.zeros(2, 3), 1)).shape
    (torch.Size([2, 3]), torch.Size([2, 3]))
    """
    found = output
    if isinstance(output, Mapping):
        found = next((output[name] for name in _LOGITS if name in output), None)
    elif hasattr(output, "logits"):
        found = output.logits
    elif isinstance(output, tuple | list) and output:
        found = output[0]
    return found if isinstance(found, Tensor) else None


class _GivesLogits:
    """Put before a model whose output holds its logits."""

    def forward(self, x: Tensor) -> Any:
        return find_logits(super().forward(x))  # type: ignore[misc]


def _with_logits(model: nn.Module) -> nn.Module:
    """The model, its parameters and modules the same objects, giving its logits alone."""
    made = copy.copy(model)
    made.__class__ = type(type(model).__name__, (_GivesLogits, type(model)), {})
    return made


def _answer(prepared: PreparedModel, data: ImageSet) -> Any:
    """What the model gives for two samples; None where it fails."""
    x = prepared.preprocess()(data.images[:2])
    if prepared.channels_last and x.ndim == 4 and x.shape[1] == 1:
        # Both layouts at once, until an operation makes it one of them: here it is this one.
        height, width = x.shape[2:]
        x = x.contiguous().as_strided(x.shape, (height * width, 1, width, 1))
    try:
        with torch.no_grad(), eval_mode(prepared.model):
            return prepared.model(x.to(device_of(prepared.model)))
    except Exception:  # in whatever words a model refuses its input
        return None


@torch.no_grad()
def predict(
    model: nn.Module,
    preprocess: Preprocess,
    images: Tensor | LazyImages,
    *,
    device: torch.device,
    batch_size: int = EVALUATION_BATCH,
    processes: Processes | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """The model's logits for every image, in eval mode and float32; every module's mode is put back.

    Args:
        preprocess: what its input goes through; it also puts the logits in the data's class order.
        batch_size: images at a time; fewer where memory runs out.
        processes: who shares the work; every one of them gets all the logits.

    Returns:
        float32 [N, K] on the CPU, the same for any number of processes.
    """
    processes = processes or Processes()
    starts = range(0, len(images), batch_size)
    parts: dict[int, Tensor] = {}
    with eval_mode(model):
        # Whole batches are dealt out, so that each is computed as one process would.
        for start in starts[processes.rank :: processes.count]:
            batch = images[start : start + batch_size].to(device)
            parts[start] = torch.cat(in_parts(partial(_logits, model, preprocess, batch), len(batch)))
            if on_batch is not None:
                on_batch(min(start + batch_size * processes.count, len(images)))
    if processes.count == 1:
        return torch.cat(list(parts.values())).cpu()
    # A process may have had no batch, and so not know the number of classes.
    classes = torch.tensor(parts[0].shape[1] if processes.is_main else 0, device=device)
    logits = torch.zeros(len(images), int(processes.total(classes)), device=device)
    for start, part in parts.items():
        logits[start : start + len(part)] = part
    return processes.total(logits).cpu()


def _logits(model: nn.Module, preprocess: Preprocess, batch: Tensor, rows: slice) -> list[Tensor]:
    def answer(inputs: Tensor) -> Tensor:
        return preprocess.reorder(model(preprocess(inputs)).float())

    part = batch[rows]
    return [by_length(answer, part) if is_tokens(part) else answer(part)]


def logits_of(
    prepared: PreparedModel,
    data: ImageSet,
    device: torch.device,
    observer: Observer,
    what: str,
    processes: Processes | None = None,
) -> Tensor:
    """The logits of a model for every image of a split, float32 [N, K] on the CPU, in the data's class order.

    Of a large split of images they are those of a copy with folded batch norms: the same function, other last digits.
    """
    model = prepared.model
    if data.tokens is None and len(data) >= _WORTH_A_COPY:
        model = answering_copy(model, prepared.inputs(data.images[:4]))
    return predict(
        model,
        prepared.preprocess().to(device),
        data.images,
        device=device,
        processes=processes,
        on_batch=lambda done: observer.phase(what, done, len(data)),
    )


def size_of(prepared: PreparedModel, data: ImageSet) -> dict[str, int]:
    """Parameters, multiply-adds of one image, and bytes of the weights on disk."""
    example = prepared.inputs(data.images[:1])
    return {
        "parameters": parameters(prepared.model),
        "multiply_adds": multiply_adds(prepared.model, example),
        "bytes": state_bytes(prepared.model),
    }
