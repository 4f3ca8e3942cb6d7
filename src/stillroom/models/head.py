"""A model's last layer, found without tracing: which linear layer gives the logits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillroom.models.cost import evaluating
from stillroom.models.replay import agree


def find_head(model: nn.Module, example: Tensor) -> str | None:
    """Path of the linear layer whose output the logits are; None where they are made otherwise.

    One pass tells it, where :func:`~stillroom.models.tail.tail_of` traces the whole model. A layer counts if the model
    gives what it gave, and what it gave is W·h + b of its own weights: behind a temperature or an activation, or where
    a layer normalises its weights, there is none.

    Args:
        model: from images to logits [B, K]; it is left as it was.
        example: an input [B, …] as the model gets it.

    >>> find_head(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4), nn.Dropout()), torch.ones(2, 2))
    '2'
    >>> find_head(nn.Sequential(nn.Linear(2, 3), nn.Tanh()), torch.ones(2, 2)) is None
    True
    """
    seen: list[tuple[str, nn.Linear, Tensor, Tensor]] = []

    def note(name: str, layer: nn.Linear) -> Any:
        def read(module: nn.Module, inputs: Any, output: Any) -> None:
            if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                seen.append((name, layer, inputs[0], output))

        return read

    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    handles = [layer.register_forward_hook(note(name, layer)) for name, layer in layers]
    try:
        with evaluating(model), torch.no_grad():
            logits = model(example)
            for name, layer, features, output in reversed(seen):
                # The same memory: equal values alone could be of a layer to which nothing was added yet.
                handed_on = output.shape == logits.shape and output.data_ptr() == logits.data_ptr()
                if handed_on and features.dim() == 2 and agree(F.linear(features, layer.weight, layer.bias), logits):
                    return name
    finally:
        for handle in handles:
            handle.remove()
    return None
