"""Reading what modules inside a model gave, while the model runs as ever."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stillroom.errors import BadInput, RunFailed, nearest


class Taps:
    """Reads the outputs of named modules during the forward passes of a ``with`` block.

    The hooks are there in the block alone: copies of the model carry none, and it can be pickled.

    Args:
        model: the model.
        names: module paths as ``named_modules`` gives them, such as ``layer2``.
        field: what messages call the model.

    Raises:
        BadInput: a name that the model does not have.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> taps = Taps(net, ["0"])
    >>> with taps:
    ...     _ = net(torch.zeros(1, 2))
    >>> taps.take()["0"].shape
    torch.Size([1, 3])
    """

    def __init__(self, model: nn.Module, names: Iterable[str], *, field: str = "model") -> None:
        modules = dict(model.named_modules())
        self._modules: dict[str, nn.Module] = {}
        for name in sorted(set(names)):
            if name not in modules or not name:
                raise BadInput(f"{field} tap", name, f"a module of the {field}: {nearest(name, filter(None, modules))}")
            self._modules[name] = modules[name]
        self._handles: list[RemovableHandle] = []
        self._read: dict[str, tuple[Tensor, int]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The taps, sorted."""
        return tuple(self._modules)

    def __enter__(self) -> Taps:
        for name, module in self._modules.items():
            self._handles.append(module.register_forward_hook(self._reader(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()
        if error is not None:
            # What was read holds on to all that was computed before it.
            self._read.clear()

    def _reader(self, name: str) -> Any:
        def read(module: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                raise RunFailed(f"tap {name!r} gives {type(output).__name__}, not a tensor")
            self._read[name] = output, output._version

        return read

    def take(self) -> dict[str, Tensor]:
        """What the last forward pass gave at each tap; it is not held any longer.

        Raises:
            RunFailed: a module was not run, or a later one overwrote what it gave.
        """
        taken = {}
        for name in self.names:
            if name not in self._read:
                raise RunFailed(f"tap {name!r} was not run in the forward pass")
            output, version = self._read.pop(name)
            if output._version != version:
                raise RunFailed(f"tap {name!r} was overwritten in place by a later module (an in-place activation?)")
            taken[name] = output
        return taken
