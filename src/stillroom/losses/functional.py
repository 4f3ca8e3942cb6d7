"""The losses as pure functions, one a file of this folder: tensors in, a scalar out, hyper-parameters by keyword.

>>> import torch
>>> round(kl(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), temperature=1.0).item(), 4)
0.1109
"""

from __future__ import annotations

from typing import Any

from stillroom.losses.registry import functions

globals().update(functions())
__all__ = sorted(functions())


def __getattr__(name: str) -> Any:
    raise AttributeError(f"module {__name__!r} has no function {name!r}; it has {', '.join(__all__)}")
