"""What a run records during training: mean losses, time and memory, weight distances, a user's hooks."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stillroom.errors import BadInput, RunFailed, nearest
from stillroom.runtime import Processes
from stillroom.train.device import peak_memory

# Steps whose losses are kept to tell in which one they were no longer finite.
_RECENT = 1000


class Meter:
    """Mean losses since the last reading, summed on the device so that the loop never waits for it."""

    def __init__(self, names: Sequence[str], device: torch.device, processes: Processes | None = None) -> None:
        self.names = ["loss", *(f"loss/{name}" for name in names)]
        self._processes = processes or Processes()
        self._sums = torch.zeros(len(self.names), dtype=torch.float64, device=device)
        self._count = 0
        self._recent: deque[Tensor] = deque(maxlen=_RECENT)

    @property
    def empty(self) -> bool:
        """Whether nothing was added since the last reading."""
        return self._count == 0

    def add(self, losses: Tensor) -> None:
        """Add one step: the weighted loss, then each term's value."""
        self._sums += losses
        self._count += 1
        # Read only where one of them is not finite.
        self._recent.append(losses)

    def state_dict(self) -> dict[str, Any]:
        """The sums of this process since the last reading."""
        return {"sums": self._sums.clone(), "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved ``state_dict``."""
        self._sums.copy_(state["sums"])
        self._count = state["count"]

    def read(self, step: int) -> dict[str, float]:
        """The means over steps and processes; resets the meter."""
        means = (self._processes.mean(self._sums) / self._count).tolist()
        if not all(map(math.isfinite, means)):
            raise RunFailed(self._describe_fault(means, step))
        self._sums.zero_()
        self._count = 0
        self._recent.clear()
        return dict(zip(self.names, means, strict=True))

    def _describe_fault(self, means: Sequence[float], step: int) -> str:
        """Which term is not finite, from which step on."""
        first = step - self._count + 1
        # The weighted sum comes first, and says nothing of its own.
        name = next((n for n, mean in zip(self.names[1:], means[1:], strict=True) if not math.isfinite(mean)), "loss")
        column = self.names.index(name)
        finite = [math.isfinite(float(losses[column])) for losses in self._recent]
        # Before the steps that are kept it may have been so already; with several processes, in another one alone.
        is_known = False in finite and (finite[0] or len(finite) == self._count)
        when = (
            f"from step {step - len(finite) + 1 + finite.index(False)} on"
            if is_known
            else f"between steps {first} and {step}"
        )
        return f"{name} is not finite {when}; try a lower training.optimizer.lr, or training.clip_norm=1"


class Clock:
    """Records for timing.jsonl: time, throughput, memory."""

    def __init__(self, step: int) -> None:
        self._start = self._save = self._mark = time.perf_counter()
        self._marked_step = self._first = step

    def first(self, step: int) -> bool:
        """Whether this process has finished its first step after ``step`` steps."""
        return step == self._first + 1

    def lap(self, step: int, device: torch.device) -> float:
        """Seconds from the start to this step, once the device has finished; restarts the throughput window."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.restart()
        self._marked_step = step
        return round(self._mark - self._start, 4)

    def since_save(self) -> float:
        """Seconds since the last save."""
        return time.perf_counter() - self._save

    def restart(self) -> None:
        """Restart the throughput window after a save or a warm-up, as throughput measures training alone."""
        self._save = self._mark = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave a block out of the throughput."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._mark += time.perf_counter() - began

    def progress(self, step: int, batch_size: int, device: torch.device) -> dict[str, Any]:
        """One line: throughput since the last line, and the process's memory."""
        now = time.perf_counter()
        rate = (step - self._marked_step) * batch_size / max(now - self._mark, 1e-9)
        self._mark, self._marked_step = now, step
        return {
            "event": "progress",
            "step": step,
            "seconds": round(now - self._start, 4),
            "images_per_second": round(rate, 1),
            "peak_memory_mb": round(peak_memory(device) / 2**20, 1),
        }


@dataclass(frozen=True)
class StepInfo:
    """One finished optimizer step.

    Attributes:
        step: optimizer steps done, this one included.
        epoch: its epoch, from 0.
        student: the student after the step.
        loss: the step's weighted loss, still on the device; reading it waits for the device. With several processes,
            the loss of this process's part of the batch.
    """

    step: int
    epoch: int
    student: nn.Module
    loss: Tensor


@dataclass(frozen=True)
class EvaluationInfo:
    """One evaluation on the test split, or with ``data.validation`` on the validation images.

    Attributes:
        step: optimizer steps done.
        epoch: step / steps per epoch.
        student: the model that was evaluated: the moving average where there is one.
        metrics: ``top1``, ``nll`` and what else its line of ``metrics.jsonl`` holds.
    """

    step: int
    epoch: float
    student: nn.Module
    metrics: dict[str, float]


class StepHook:
    """Subclass it and override what you need. Its state is saved with the run's, so that a resumed run is exact."""

    def start(self, student: nn.Module) -> None:
        """Called once, with the student as it was initialised."""

    def before_step(self) -> None:
        """Called before each attempt at a step; there are several attempts if memory runs out."""

    def after_step(self, info: StepInfo) -> None:
        """Called after every optimizer step; keep results on the device here, and read them in ``line``."""

    def after_evaluation(self, info: EvaluationInfo) -> None:
        """Called after every evaluation on the test split, or with ``data.validation`` on the validation images."""

    def line(self) -> dict[str, Any] | None:
        """What to append to ``weight_distance.jsonl`` at a log step, with step and epoch; None for nothing."""
        return None

    def epoch_line(self) -> dict[str, Any] | None:
        """What to append to ``gradient_rescaling.jsonl`` at an epoch's last step; None for nothing."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: tensors, numbers, text, lists and dicts of these."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved ``state_dict``."""


class FunctionHook(StepHook):
    """A function that is called after every optimizer step.

    >>> steps = []
    >>> FunctionHook(lambda info: steps.append(info.step)).after_step(StepInfo(1, 0, nn.Flatten(), torch.zeros(())))
    >>> steps
    [1]
    """

    def __init__(self, function: Callable[[StepInfo], Any]) -> None:
        self.function = function

    def after_step(self, info: StepInfo) -> None:
        """Call the function."""
        self.function(info)


def as_hooks(given: Sequence[StepHook | Callable[[StepInfo], Any]]) -> list[StepHook]:
    """The hooks that a user lists: hooks, and functions of a :class:`StepInfo`.

    Raises:
        BadInput: one is a class, or cannot be called.
    """
    if isinstance(given, StepHook) or callable(given):
        given = [given]
    for hook in given:
        if isinstance(hook, type) or not (isinstance(hook, StepHook) or callable(hook)):
            made = f" such as {hook.__name__}()" if isinstance(hook, type) else ""
            raise BadInput("hooks", hook, f"an instance of a StepHook{made}, or a function of a StepInfo")
    return [hook if isinstance(hook, StepHook) else FunctionHook(hook) for hook in given]


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
                expected = "a layer that does not start at zero: distances are relative"
                raise BadInput("training.record_weight_distance", layer, expected)

    @torch.no_grad()
    def start(self, student: nn.Module) -> None:
        """Store the initial weights."""
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
        return {"distance": {layer: float(moved) for layer, moved in self._moved.items()}}

    def state_dict(self) -> dict[str, Any]:
        """The weights before the next step, the initial weights' norms, the sums."""
        return {"before": self._before, "origin": self._origin, "moved": self._moved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved ``state_dict``."""
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
