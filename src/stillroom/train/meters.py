"""The figures of a run while it goes: losses that stay on the device, clocks that stay out of metrics.jsonl."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stillroom.errors import RunFailed
from stillroom.runtime import Processes
from stillroom.train.device import peak_memory


class Meter:
    """Means of the losses since the last reading, summed on the device so that the hot loop never waits for it."""

    def __init__(self, names: Sequence[str], device: torch.device, processes: Processes | None = None) -> None:
        self.names = ["loss", *(f"loss/{name}" for name in names)]
        self._processes = processes or Processes()
        self._sums = torch.zeros(len(self.names), dtype=torch.float64, device=device)
        self._count = 0

    @property
    def empty(self) -> bool:
        """Nothing was added since the last reading."""
        return self._count == 0

    def add(self, losses: Tensor) -> None:
        """Add one step's: the weighted loss, then each term's own."""
        self._sums += losses
        self._count += 1

    def read(self, step: int) -> dict[str, float]:
        """The means over the steps and the processes, and start anew.

        Raises:
            RunFailed: one of them is not finite.
        """
        means = (self._processes.mean(self._sums) / self._count).tolist()
        for name, mean in zip(self.names, means, strict=True):
            if not math.isfinite(mean):
                raise RunFailed(
                    f"{name} is not finite between steps {step - self._count + 1} and {step}; "
                    "try a lower training.optimizer.lr, or training.clip_norm=1"
                )
        self._sums.zero_()
        self._count = 0
        return dict(zip(self.names, means, strict=True))


class Clock:
    """What goes to timing.jsonl: time, throughput, memory."""

    def __init__(self, step: int) -> None:
        self._start = self._save = self._mark = time.perf_counter()
        self._marked_step = self._first = step

    def first(self, step: int) -> bool:
        """Whether ``step`` steps done means that this process has done one."""
        return step == self._first + 1

    def lap(self, step: int, device: torch.device) -> float:
        """Seconds from the start to this step, once the device is done; the throughput's window starts anew."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.restart()
        self._marked_step = step
        return round(self._mark - self._start, 4)

    def since_save(self) -> float:
        """Seconds since the last save."""
        return time.perf_counter() - self._save

    def restart(self) -> None:
        """A save was made or a warm-up ended: the throughput's window starts anew, as it is a figure of training."""
        self._save = self._mark = time.perf_counter()

    def progress(self, step: int, batch_size: int, device: torch.device) -> dict[str, Any]:
        """One line: throughput since the last line, the process's memory."""
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
