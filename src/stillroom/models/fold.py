"""Batch norm folded into the convolution before it: the same function, one pass over memory less a layer."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree

from stillroom.models.modes import copy_model

_PAIRS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def fold_batchnorm(
    model: nn.Module, example: Tensor, tolerance: float = 1e-4, *, keep: Collection[str] = ()
) -> tuple[nn.Module, bool]:
    """A copy of a model in evaluation mode, each batch norm folded into the convolution it follows.

    w' = w · γ/√(σ² + ε) and b' = (b − μ) · γ/√(σ² + ε) + β, computed in float64. The copy has the same modules under
    the same names: a folded norm becomes an identity, so hooks and taps on it still read what the norm gave. A
    convolution is left alone where anything but one norm reads its output, where it is used twice, or where the norm
    has no running statistics.

    Args:
        example: an input [B, …] on the model's device, on which the copy is compared with the model, in float64
            where they can.
        tolerance: largest allowed max|Δ|/max|output| on the example.
        keep: names of modules whose output someone will read: where that is a convolution's, it is left alone.

    Returns:
        The copy, and whether anything was folded. It was not where the model cannot be traced, nothing fits, or the
        outputs differ by more than the tolerance: the copy then computes what the model computes.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    >>> folded, was_folded = fold_batchnorm(net, torch.zeros(1, 3, 8, 8))
    >>> was_folded, type(folded[1]).__name__, type(net[1]).__name__
    (True, 'Identity', 'BatchNorm2d')
    """
    pairs = _pairs(model, keep)
    folded = copy_model(model).eval()
    if not pairs:
        return folded, False
    with torch.no_grad():
        for conv, norm in pairs:
            _fold(folded, conv, norm)
        agree = _agree(folded, model, example, tolerance)
    return (folded, True) if agree else (copy_model(model).eval(), False)


def left_unfolded(model: nn.Module, keep: Collection[str]) -> tuple[str, ...]:
    """The convolutions that :func:`fold_batchnorm` leaves alone for the sake of ``keep``, which changes last bits.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    >>> left_unfolded(net, ["0"]), left_unfolded(net, ["1"])
    (('0',), ())
    """
    if not keep:
        return ()
    kept = _pairs(model, keep)
    return tuple(conv for conv, norm in _pairs(model, ()) if (conv, norm) not in kept)


# Activations that can write over what they are given, and what gives a tensor of its own that nothing else holds.
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU)
_MAKERS = (nn.Linear, *_PAIRS, *_PAIRS.values())
_SUMS = (operator.add, torch.add)


def activate_in_place(model: nn.Module, example: Tensor, *, keep: Collection[str] = ()) -> int:
    """Let activations write over what they are given, in a model that only answers: the same bits, less memory moved.

    An activation module is changed where, in each of its calls, a convolution, a linear layer, a batch norm or a sum
    made what it is given and nothing else reads it. The outputs of ``keep``, and of modules with hooks, stay as they
    were.

    Args:
        model: in evaluation mode; changed.
        example: an input [B, …] on the model's device; where the answer to it changes by a bit, all is undone.
        keep: names of modules whose output someone will read.

    Returns:
        How many activations write in place now; 0 where the model cannot be traced.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU()).eval()
    >>> activate_in_place(net, torch.zeros(1, 3, 8, 8), keep=["2"]), net[1].inplace, net[3].inplace
    (1, True, False)
    """
    waiting = any(isinstance(module, _ACTIVATIONS) and not module.inplace for module in model.modules())
    traced = module_graph(model) if waiting else None
    if traced is None:
        return 0
    graph, copy = traced
    kept = {*keep, *hooked(copy)}
    safe: dict[str, bool] = {}
    names = {module: name for name, module in copy.named_modules()}
    for node in graph.nodes:
        module = copy.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, _ACTIVATIONS):
            safe[names[module]] = safe.get(names[module], True) and _may_overwrite(copy, node, kept)
    changed = [m for name, good in safe.items() if good and not (m := model.get_submodule(name)).inplace]
    before = _answer(model, example)
    for module in changed:
        module.inplace = True  # type: ignore[assignment]
    after = _answer(model, example)
    if before is None or after is None or not all(map(torch.equal, before, after)):
        for module in changed:
            module.inplace = False  # type: ignore[assignment]
        return 0
    return len(changed)


def _may_overwrite(model: nn.Module, node: fx.Node, kept: set[str]) -> bool:
    """Whether what a call of an activation is given is its own to write over."""
    inside = _modules_around(node)
    given = node.args[0] if len(node.args) == 1 and not node.kwargs else None
    while isinstance(given, fx.Node) and len(given.users) == 1:
        # A kept module that holds the maker and not the activation gives this very tensor.
        if kept & (_modules_around(given) - inside):
            return False
        if given.op == "call_function":
            return given.target in _SUMS
        if given.op != "call_module":
            return False
        module = model.get_submodule(str(given.target))
        if not isinstance(module, nn.Identity):
            return type(module) in _MAKERS
        given = given.args[0]
    return False


def _modules_around(node: fx.Node) -> set[str]:
    """The names of the modules that a traced call was made in, its own among them."""
    around = {str(name) for name, _ in (node.meta.get("nn_module_stack") or {}).values()}
    return around | ({str(node.target)} if node.op == "call_module" else set())


@torch.no_grad()
def _answer(model: nn.Module, example: Tensor) -> list[Tensor] | None:
    try:
        return [each for each in _pytree.tree_leaves(model(example.clone())) if isinstance(each, Tensor)]
    except Exception:  # in whatever words a model refuses its input
        return None


def module_graph(model: nn.Module) -> tuple[fx.Graph, nn.Module] | None:
    """A model's graph, and the copy that it was traced on, in evaluation mode; None where it cannot be traced."""
    try:
        # A copy of its own: tracing runs the model's code, which may leave traces in it.
        copy = copy_model(model).eval()
        return fx.Tracer().trace(copy), copy
    except Exception:  # a model's own code can fail in any way on symbolic values
        return None


def hooked(model: nn.Module) -> set[str]:
    """The names of the modules that have hooks."""
    return {name for name, module in model.named_modules() if any(getattr(module, hooks) for hooks in _HOOKS)}


def _pairs(model: nn.Module, keep: Collection[str]) -> list[tuple[str, str]]:
    """Names of each convolution and norm that can become one; none where the model cannot be traced."""
    answer = module_graph(model)
    if answer is None:
        return []
    graph, traced = answer
    called = [node for node in graph.nodes if node.op == "call_module"]
    calls = Counter(id(traced.get_submodule(str(node.target))) for node in called)
    # Parameters that the model's code reads by itself must stay what they are.
    read = {id(traced.get_submodule(str(n.target).rpartition(".")[0])) for n in graph.nodes if n.op == "get_attr"}
    with_hooks = hooked(traced)
    kept = {*keep, *with_hooks}

    def free(name: str, module: nn.Module) -> bool:
        return calls[id(module)] == 1 and id(module) not in read and name not in with_hooks

    found = []
    for node in called:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or list(source.users) != [node]:
            continue
        names = str(source.target), str(node.target)
        conv, norm = traced.get_submodule(names[0]), traced.get_submodule(names[1])
        if _PAIRS.get(type(conv)) is not type(norm) or not free(names[0], conv) or not free(names[1], norm):
            continue
        # A kept module that holds the convolution and not the norm gives what the convolution gave.
        if kept & (_modules_around(source) - _modules_around(node)) or not _has_statistics(norm):
            continue
        found.append(names)
    return found


def _has_statistics(norm: Any) -> bool:
    running = bool(norm.track_running_stats) and norm.running_mean is not None and norm.running_var is not None
    return running and not norm.training


def _fold(model: nn.Module, conv_name: str, norm_name: str) -> None:
    conv: Any = model.get_submodule(conv_name)
    norm: Any = model.get_submodule(norm_name)
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    bias = -norm.running_mean.double() if conv.bias is None else conv.bias.double() - norm.running_mean.double()
    bias = bias * scale
    if norm.bias is not None:
        bias = bias + norm.bias.double()
    weight = conv.weight.double() * scale.view(-1, *[1] * (conv.weight.dim() - 1))
    # New parameters, not new values: the old ones may be tied to another module's.
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), conv.weight.requires_grad)
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), conv.weight.requires_grad)
    _replace(model, norm, nn.Identity().eval())


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` in every place that holds ``old``: a module may have several names."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def _agree(folded: nn.Module, model: nn.Module, example: Tensor, tolerance: float) -> bool:
    """Whether copies of both say the same: in float64, which no shortened GPU arithmetic blurs, if they can."""
    for convert in (_in_float64, _copy):
        try:
            actual, wanted = (convert(each).eval()(convert(example)) for each in (folded, model))
        except Exception:  # code that insists on its precision, or on a norm; a device that has no float64
            continue
        pairs = zip(_pytree.tree_leaves(actual), _pytree.tree_leaves(wanted), strict=True)
        return all(_close(a, b, tolerance) for a, b in pairs if isinstance(a, Tensor) and isinstance(b, Tensor))
    return False


def _copy(what: Any) -> Any:
    return what.clone() if isinstance(what, Tensor) else copy_model(what)


def _in_float64(what: Any) -> Any:
    whole = isinstance(what, Tensor) and not what.is_floating_point()
    return what if whole else _copy(what).double()


def _close(actual: Tensor, wanted: Tensor, tolerance: float) -> bool:
    if actual.shape != wanted.shape:
        return False
    if actual.numel() == 0:
        return True
    worst = (actual.double() - wanted.double()).abs().max()
    # Written so that NaN counts as different.
    return bool(worst <= tolerance * wanted.double().abs().max())
