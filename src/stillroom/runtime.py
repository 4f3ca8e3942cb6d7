"""Where a run takes place: its device, its precision, the processes that share it, and who follows its progress."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy.typing as npt
import torch
from torch import Tensor, nn

from stillroom.observer import Observer

Precision = Literal["float32", "bfloat16"]


class Processes:
    """The processes that share a run: here a single one."""

    rank: int = 0  # this process's number, from 0; process 0 alone writes
    count: int = 1  # how many there are

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def shard(self, rows: Sequence[Any] | npt.NDArray[Any]) -> Any:
        """This process's part of a batch: an equal, unbroken stretch of it."""
        each = len(rows) // self.count
        return rows[self.rank * each : (self.rank + 1) * each]

    def wrap(self, module: nn.Module, *, some_unused: bool) -> nn.Module:
        """The module whose backward averages the gradients over the processes."""
        return module

    def no_sync(self, module: nn.Module) -> AbstractContextManager[object]:
        """A context in which a wrapped module's backward keeps its gradients to this process."""
        return nullcontext()

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over the processes, the same on each."""
        return tensor

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, the same on each."""
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """The processes' tensors [B, …] one after another, [count·B, …]; gradients flow back to each."""
        return tensor

    def copy_buffers(self, module: nn.Module) -> None:
        """Give every process the main process's buffers, such as batch norm's running statistics."""

    def copy_weights(self, module: nn.Module) -> None:
        """Give every process the main process's parameters and buffers: a model made in Python may have no seed."""

    def wait(self) -> None:
        """Wait until every process is here."""


class PhaseClock:
    """The wall time of a run by phase; a second in a phase within another counts for the inner one alone.

    Args:
        began: when the run began, by ``time.perf_counter``; default: now.

    >>> clock = PhaseClock()
    >>> with clock.phase("training"), clock.phase("teacher"):
    ...     time.sleep(0.02)
    >>> split = clock.split()
    >>> list(split), split["teacher"] > 0.01 > split["training"]
    (['teacher', 'training', 'other'], True)
    """

    def __init__(self, began: float | None = None) -> None:
        self._began = time.perf_counter() if began is None else began
        self._seconds: dict[str, float] = {}
        self._inner = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of a block for a phase."""
        start, outer, self._inner = time.perf_counter(), self._inner, 0.0
        try:
            yield
        finally:
            took = time.perf_counter() - start
            self.add(name, took - self._inner)
            self._inner = outer + took

    def add(self, name: str, seconds: float) -> None:
        """Count seconds for a phase that no block encloses."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def total(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self._began

    def split(self) -> dict[str, float]:
        """Seconds of each phase so far, and of all else as ``other``."""
        other = max(self.total() - sum(self._seconds.values()), 0.0)
        return {name: round(seconds, 4) for name, seconds in [*self._seconds.items(), ("other", other)]}


@dataclass(frozen=True)
class Runtime:
    """Where a run takes place."""

    device: torch.device  # where models run
    precision: Precision  # of the training steps
    processes: Processes  # who shares the work
    observer: Observer  # follows the progress
    clock: PhaseClock = field(default_factory=PhaseClock)  # what its time goes to
    of_frozen_teachers: Precision | None = None  # where it is not that of the training steps

    @property
    def teacher_precision(self) -> Precision:
        """Of what frozen teachers give in the training steps."""
        return self.of_frozen_teachers or self.precision
