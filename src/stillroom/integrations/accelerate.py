"""An audit of a loop that accelerate's ``Accelerator`` prepares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import nn

from stillroom.errors import BadInput
from stillroom.integrations import FrameworkAudit


class AcceleratorAudit(FrameworkAudit):
    """Watches a loop with accelerate, and says what is wrong with it; the main process prints and writes.

    ``with AcceleratorAudit(accelerator, out="diagnosis"): train()``; nothing else changes.

    Args:
        accelerator: the loop's ``Accelerator``.
        teacher: the module or modules that teach; None: found.
        student: the module or modules that learn; None: found.
        steps: how many steps are watched, the first and some later ones.
        out: a folder for ``diagnosis.json`` and ``diagnosis.html``; None writes none.

    Raises:
        BadInput: the accelerator is none.
    """

    def __init__(
        self,
        accelerator: Any,
        *,
        teacher: nn.Module | Sequence[nn.Module] | None = None,
        student: nn.Module | Sequence[nn.Module] | None = None,
        steps: int = 30,
        out: str | Path | None = None,
    ) -> None:
        # accelerate itself is imported by train/device.py alone.
        if not hasattr(accelerator, "is_main_process"):
            raise BadInput("accelerator", type(accelerator).__name__, "accelerate's Accelerator")
        super().__init__(teacher=teacher, student=student, steps=steps, out=out, name="accelerate loop")
        self._accelerator = accelerator

    def __enter__(self) -> Self:
        self.begin(is_main=self._accelerator.is_main_process)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(finished=kind is None)
