"""How a model is run for a block: in evaluation mode, with plain attention, without output on the terminal."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import logging
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from stillroom.errors import BadInput, nearest


def device_of(model: nn.Module) -> torch.device:
    """Where a model is; the CPU for one that holds no tensor.

    >>> device_of(nn.Flatten())
    device(type='cpu')
    """
    tensors = itertools.chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def copy_model(model: nn.Module) -> nn.Module:
    """A copy that shares nothing with a user's module: of a compiled one its original, of a pruned one with its masks.

    >>> from torch.nn.utils import prune
    >>> net = prune.l1_unstructured(nn.Linear(4, 2), "weight", 0.5)
    >>> int((copy_model(net).weight == 0).sum())
    4
    """
    model = getattr(model, "_orig_mod", model)
    # A pruned or normalised weight is computed before each pass, and only what is a leaf can be copied.
    made_already: dict[int, object] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                made_already[id(value)] = value.detach().clone()
            elif type(value) is OrderedDict and not value:
                # A dozen registries of hooks a module: deepcopy would spend most of its time on them.
                made_already[id(value)] = OrderedDict()
    # Torch copies the parameters of a scripted module as results of an operation, which could not be trained.
    is_script = isinstance(model, torch.jit.ScriptModule)
    with torch.no_grad() if is_script else contextlib.nullcontext():
        made = copy.deepcopy(model, made_already)
    for parameter, original in zip(made.parameters(), model.parameters(), strict=True) if is_script else ():
        parameter.requires_grad_(original.requires_grad)
    return made


def freeze(model: nn.Module) -> nn.Module:
    """Take the gradients off a model's parameters; scripted modules have no ``requires_grad_`` of their own."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


@dataclass(frozen=True)
class TrainedPart:
    """Which part of a model is trained."""

    modules: tuple[str, ...]  # names of the modules that are, none of them within another
    frozen: tuple[nn.Module, ...]  # modules that keep their weights and running statistics
    parameters: int  # numbers that are trained
    of: int  # numbers in the whole model

    @property
    def text(self) -> str:
        """A line about it."""
        return (
            f"training {', '.join(self.modules)} alone: {self.parameters:,} of {self.of:,} parameters; the rest of the "
            "student is frozen, with its batch norms' statistics"
        )


def train_only(model: nn.Module, patterns: Sequence[str], *, field: str = "training.train_only") -> TrainedPart:
    """Freeze all of a model but some modules.

    Args:
        model: changed in place: parameters outside lose their gradient.
        patterns: names of modules; ``*`` stands for any text, ``layer3.*`` for all in layer3.
        field: the option's name in messages.

    Returns:
        What is trained. Its ``frozen`` modules are to be kept in evaluation mode.

    Raises:
        BadInput: there is no such module, or nothing in it to train.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    >>> part = train_only(net, ["2"])
    >>> part.modules, len(part.frozen), part.parameters, net[1].weight.requires_grad
    (('2',), 2, 8, False)
    """
    names = [name for name, _ in model.named_modules() if name]
    found: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if fnmatchcase(name, pattern)}
        if not matched:
            raise BadInput(field, pattern, f"a module of the student ({nearest(pattern, names)})")
        if not any(next(model.get_submodule(name).parameters(), None) is not None for name in matched):
            raise BadInput(field, pattern, "a module with weights: there is nothing to train in it")
        found |= matched

    def within(name: str) -> bool:
        return any(name == one or name.startswith(f"{one}.") for one in found)

    trained = 0
    for name, parameter in model.named_parameters():
        inside = within(name.rpartition(".")[0])
        parameter.requires_grad_(inside and parameter.requires_grad)
        trained += parameter.numel() if parameter.requires_grad else 0
    frozen = [
        module
        for name, module in model.named_modules()
        if not within(name) and not any(one.startswith(f"{name}.") for one in found) and name
    ]
    outermost = [name for name in names if name in found and not within(name.rpartition(".")[0])]
    return TrainedPart(tuple(outermost), tuple(frozen), trained, sum(p.numel() for p in model.parameters()))


def to_channels_last(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Lay a model's weights out for speed, where it still takes its input then: ``view`` may refuse the layout.

    Args:
        model: changed in place.
        inputs: a few of its inputs; of images [B, C, H, W] alone is there another layout.
    """
    if inputs.dim() != 4:
        return model
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        with torch.no_grad(), eval_mode(model):
            model(inputs)
    except Exception:  # in whatever words a model refuses a layout
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return model


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a block, then each of its modules back into its own mode.

    >>> net = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with eval_mode(net):
    ...     net[0].training
    False
    >>> net[0].training, net[1].training
    (True, False)
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def plain_attention() -> Iterator[None]:
    """Multi-head attention as its separate operations for a block: PyTorch's fused inference path has no gradient."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def suppress_output() -> Iterator[None]:
    """Nothing on the terminal: the exporter prints, warns and logs its steps, and pages of a graph where it gives up.

    >>> with suppress_output():
    ...     print("a page")
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
