"""What may be done after each optimizer step: recording how far layers moved, or anything of yours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stillroom.errors import BadInput, nearest


@dataclass(frozen=True)
class StepInfo:
    """One optimizer step that has just been made.

    Attributes:
        step: optimizer steps done, this one included.
        epoch: the epoch it belongs to, from 0.
        student: the student after the step.
        loss: the step's weighted loss, still on the device; reading it waits for the device. Of several processes each
            has its own part's.
    """

    step: int
    epoch: int
    student: nn.Module
    loss: Tensor


class StepHook:
    """Subclass it and override what you need; its state is saved with the run's, so that a resumed run is exact."""

    def start(self, student: nn.Module) -> None:
        """Called once, with the student as it was initialised."""

    def before_step(self) -> None:
        """Called before each attempt at a step; there are several where memory runs out."""

    def after_step(self, info: StepInfo) -> None:
        """Called after every optimizer step; keep results on the device here, and read them in ``line``."""

    def line(self) -> dict[str, Any] | None:
        """What to append to ``weight_distance.jsonl`` at a log step, beside step and epoch; None for nothing."""
        return None

    def epoch_line(self) -> dict[str, Any] | None:
        """What to append to ``gradient_rescaling.jsonl`` at an epoch's last step, beside step and epoch; or None."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: tensors, numbers, text, lists and dicts of these."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where ``state_dict`` left."""


class RecordWeightDistance(StepHook):
    """Records each layer's cumulative movement Σ_k ‖w_k − w_{k−1}‖/‖w_0‖ over optimizer steps (Cheng et al. 2020).

    Args:
        layers: names of modules (their own weight) or of parameters.
    """

    def __init__(self, layers: tuple[str, ...]) -> None:
        self.layers = layers
        self._before: dict[str, Tensor] = {}
        self._origin: dict[str, Tensor] = {}
        self._moved: dict[str, Tensor] = {}

    def check(self, student: nn.Module) -> None:
        """Refuse layers that the student does not have, or that start at zero.

        Raises:
            BadInput: naming the layer and the nearest one.
        """
        for layer, weight in self._weights(student).items():
            if not bool(weight.detach().any()):
                raise BadInput(
                    "training.record_weight_distance", layer, "a layer that does not start at zero: moves are relative"
                )

    @torch.no_grad()
    def start(self, student: nn.Module) -> None:
        """Remember the first weights."""
        for layer, weight in self._weights(student).items():
            self._before[layer] = weight.detach().clone()
            self._origin[layer] = weight.norm()
            self._moved[layer] = torch.zeros((), device=weight.device)

    @torch.no_grad()
    def after_step(self, info: StepInfo) -> None:
        """Add the step's movement, on the device."""
        for layer, weight in self._weights(info.student).items():
            self._moved[layer] += (weight - self._before[layer]).norm() / self._origin[layer]
            self._before[layer].copy_(weight)

    def line(self) -> dict[str, Any]:
        """The movements so far."""
        return {"moves": {layer: float(moved) for layer, moved in self._moved.items()}}

    def state_dict(self) -> dict[str, Any]:
        """The weights before the next step, the first weights' norms, the sums."""
        return {"before": self._before, "origin": self._origin, "moved": self._moved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where ``state_dict`` left."""
        for mine, saved in ((self._before, "before"), (self._origin, "origin"), (self._moved, "moved")):
            for layer, value in state[saved].items():
                mine[layer] = value.to(mine[layer].device)

    def _weights(self, student: nn.Module) -> dict[str, Tensor]:
        parameters = dict(student.named_parameters())
        found: dict[str, Tensor] = {}
        for layer in self.layers:
            name = layer if layer in parameters else f"{layer}.weight"
            if name not in parameters:
                layers = [known.removesuffix(".weight") for known in parameters if known.endswith(".weight")]
                raise BadInput(
                    "training.record_weight_distance", layer, f"a layer of the student: {nearest(layer, layers)}"
                )
            found[layer] = parameters[name]
        return found
