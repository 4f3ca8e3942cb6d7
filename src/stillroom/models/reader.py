"""Reads what modules inside a model compute, while the model runs unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stillroom.errors import BadInput, RunFailed, nearest

FEATURES, LOGITS, PRE = "features", "logits", ":pre"

# By name, as libraries write their own versions of PyTorch's.
_ACTIVATIONS = frozenset(
    {
        *("relu", "relu6", "leakyrelu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "gelutanh", "quickgelu"),
        *("silu", "swish", "mish", "hardswish", "hardsigmoid", "hardmish", "hardtanh", "sigmoid", "tanh", "softplus"),
        *("softsign", "threshold", "starrelu"),
    }
)


class TapReader:
    """Reads the outputs of named modules during the forward passes of a ``with`` block.

    ``name:pre`` is the input of the last activation module inside the module, ``features`` the input of the layer
    that makes the logits, ``logits`` what the model gives. The hooks are there in the block alone: copies of the
    model carry none, and it can be pickled. Where a later module overwrites in place what a tap read, the first pass
    finds it out, and this tap is copied from then on.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> taps = TapReader(net, ["0", "1:pre"])
    >>> with taps:
    ...     _ = net(torch.zeros(1, 2))
    >>> {name: tuple(tensor.shape) for name, tensor in taps.take().items()}
    {'0': (1, 3), '1:pre': (1, 3)}
    """

    def __init__(
        self,
        model: nn.Module,
        names: Iterable[str],
        *,
        field: str = "model",
        on_read: Callable[[str], None] | None = None,
    ) -> None:
        self._places = {name: tap_modules(model, name, field=field) for name in sorted(set(names))}
        self._handles: list[RemovableHandle] = []
        self._read: dict[str, tuple[Tensor, int, Tensor | None]] = {}
        # Whether a later module overwrites what a tap reads; not known before the first pass.
        self._overwritten: dict[str, bool] = {}
        self._on_read = on_read

    @property
    def names(self) -> tuple[str, ...]:
        """The taps, sorted."""
        return tuple(self._places)

    def __enter__(self) -> TapReader:
        for name, (modules, side) in self._places.items():
            for module in modules:
                if side == "output":
                    self._handles.append(module.register_forward_hook(self._reader(name)))
                else:
                    self._handles.append(module.register_forward_pre_hook(self._input_reader(name)))
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
            self._keep(name, output)

        return read

    def _input_reader(self, name: str) -> Any:
        def read(module: nn.Module, inputs: Any) -> None:
            if inputs:
                self._keep(name, inputs[0])

        return read

    def _keep(self, name: str, tensor: Any) -> None:
        if isinstance(tensor, tuple) and tensor and all(each is None for each in tensor[1:]):
            tensor = tensor[0]  # as blocks of some encoders give it, with None for attentions that nobody asked for
        if not isinstance(tensor, Tensor):
            raise RunFailed(f"tap {name!r} gives {type(tensor).__name__}, not a tensor")
        overwritten = self._overwritten.get(name)
        if overwritten:
            tensor = tensor.clone()
        # The inputs of all layers pass by on the way to the last, which nothing comes after.
        copy = tensor.clone() if overwritten is None and name != FEATURES else None
        self._read[name] = tensor, tensor._version, copy
        if self._on_read is not None:
            self._on_read(name)

    def take(self) -> dict[str, Tensor]:
        """What the last forward pass gave at each tap; it is not held any longer."""
        taken = {}
        for name in self.names:
            if name not in self._read:
                raise RunFailed(f"tap {name!r} was not run in the forward pass")
            tensor, version, copy = self._read.pop(name)
            changed = tensor._version != version
            if changed and copy is None:
                raise RunFailed(f"tap {name!r} was overwritten in place by a later module (an in-place activation?)")
            if copy is not None:
                self._overwritten[name] = changed
            taken[name] = copy if changed and copy is not None else tensor
        return taken


def tap_modules(
    model: nn.Module, name: str, *, field: str = "model"
) -> tuple[tuple[nn.Module, ...], Literal["input", "output"]]:
    """The modules that a tap is read at, and of which side of them; of several, the last that runs counts.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> tap_modules(net, "1:pre")
    ((ReLU(),), 'input')
    """
    if name == LOGITS:
        return (model,), "output"
    modules = dict(model.named_modules())
    if name == FEATURES:
        # A leaf with a matrix of weights; a norm has a vector.
        layers = (m for m in modules.values() if not any(m.children()) and not isinstance(m, nn.LayerNorm))
        return tuple(m for m in layers if any(p.dim() > 1 for p in m.parameters(recurse=False))), "input"
    path = name.removesuffix(PRE)
    if path not in modules or not path or path == FEATURES:
        known = [key for key in modules if key and key != FEATURES]
        raise BadInput(f"{field} tap", name, f"a module of the {field}: {nearest(path, [*known, FEATURES, LOGITS])}")
    if path == name:
        return (modules[path],), "output"
    activations = [module for module in modules[path].modules() if type(module).__name__.lower() in _ACTIVATIONS]
    if not activations:
        raise BadInput(f"{field} tap", name, f"a module that holds an activation module; {path!r} holds none")
    return tuple(activations), "input"
