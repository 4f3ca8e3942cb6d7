"""Where a run takes place: its device, its precision, the processes that share it, and who follows its progress."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Runtime:
    """Where a run takes place."""

    device: torch.device  # where models run
    precision: Precision  # of the training steps, and so of the teacher's outputs in them
    processes: Processes  # who shares the work
    observer: Observer  # follows the progress
