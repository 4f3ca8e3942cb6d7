"""Convolutions that add and cut off negative values themselves: the same bits on a CPU, two passes over memory less."""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from stillroom.models.fold import activate_in_place, fold_batchnorm, hooked, module_graph
from stillroom.models.modes import freeze, to_channels_last

_SUMS = (operator.add, operator.iadd, torch.add)
# What makes a tensor that nothing but its readers in the graph holds.
_MAKERS = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.AvgPool2d, nn.MaxPool2d)


def fuse_convolutions(model: nn.Module, example: Tensor) -> nn.Module:
    """A model that only answers, with ReLU(conv(x)), conv(x) + y and ReLU(conv(x) + y) in one oneDNN operation each.

    Between its operations a network moves each feature map through memory several times; on a CPU that is a quarter of
    the time of a ResNet's answer. The model is traced; what cannot be, and what has hooks, is left alone.

    Args:
        model: in evaluation mode, frozen, its batch norms folded (:func:`stillroom.models.fold.fold_batchnorm`).
        example: an input [B, C, H, W] of the model.

    Returns:
        A graph with the same weights, or the model itself where nothing fits, on another device than a CPU, or where
        the answer to the example changes by a bit.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    >>> fused = fuse_convolutions(net, torch.zeros(1, 3, 8, 8))
    >>> [node.name for node in fused.graph.nodes if node.op == "call_function"]
    ['_convolution_pointwise_default']
    """
    if example.device.type != "cpu" or example.dtype != torch.float32 or example.ndim != 4:
        return model
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_convolution_pointwise_"):
        return model
    try:
        with torch.no_grad():
            fused = _fused(model)
            # Of two sizes: what a trace takes for a constant must not be the batch's.
            tried = [example, example[1:]] if len(example) > 1 else [example]
            same = fused is not None and all(torch.equal(fused(x.clone()), model(x.clone())) for x in tried)
    except Exception:  # in whatever words an operation refuses its input
        return model
    return fused if fused is not None and same else model


def answering_copy(model: nn.Module, example: Tensor) -> nn.Module:
    """A frozen copy for logits alone, as fast as they can be had: batch norms folded, convolutions fused.

    Args:
        example: a few of its inputs [B, …], on its device.

    Returns:
        The copy, in evaluation mode; the model itself where no batch norm could be folded, or where it has hooks, which
        may want to see each pass.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    >>> x = torch.rand(2, 3, 8, 8)
    >>> bool((answering_copy(net, x)(x) - net(x)).abs().max() < 1e-5)
    True
    """
    if hooked(model):
        return model
    copy, folded = fold_batchnorm(model, example)
    if not folded:
        return model
    return ready_to_answer(copy, example)


def ready_to_answer(
    model: nn.Module, example: Tensor, *, keep: Collection[str] = (), logits_alone: bool = True
) -> nn.Module:
    """A folded copy, frozen and laid out for speed: what only answers, and is not trained.

    Args:
        model: changed.
        example: a few of its inputs [B, …], on its device.
        keep: names of modules whose output someone will read.
        logits_alone: whether nothing but its logits is read, so that convolutions may be fused.
    """
    made = to_channels_last(freeze(model).eval(), example)
    if logits_alone:
        made = fuse_convolutions(made, example)
    activate_in_place(made, example, keep=keep)
    return made


def _fused(model: nn.Module) -> nn.Module | None:
    traced = None if hooked(model) else module_graph(model)
    if traced is None:
        return None
    graph, copy = traced
    order = {node: place for place, node in enumerate(graph.nodes)}
    changed = 0
    for node in list(graph.nodes):
        if _is_sum(node):
            changed += _fuse_sum(graph, copy, node, order)
        elif _is_relu(copy, node):
            changed += _fuse_relu(graph, copy, node, order)
    if not changed:
        return None
    made = fx.GraphModule(copy, graph)
    made.graph.eliminate_dead_code()
    made.recompile()
    made.delete_all_unused_submodules()
    return made.eval()


def _fuse_relu(graph: fx.Graph, model: nn.Module, relu: fx.Node, order: dict[fx.Node, int]) -> bool:
    """ReLU(conv(x)), where nothing else reads the convolution."""
    conv = _conv_before(model, relu.args[0])
    if conv is None:
        return False
    with graph.inserting_before(relu):
        made = graph.call_function(
            torch.ops.mkldnn._convolution_pointwise.default, (*_parts(graph, model, conv), "relu", [], "")
        )
    relu.replace_all_uses_with(made)
    order[made] = order[relu]
    return True


def _fuse_sum(graph: fx.Graph, model: nn.Module, total: fx.Node, order: dict[fx.Node, int]) -> bool:
    """conv(x) + y written over y, and the ReLU after it, where nothing reads the convolution or y any more."""
    if len(total.args) != 2 or total.kwargs:
        return False
    for own, other in (total.args, reversed(total.args)):
        conv = _conv_before(model, own)
        held = _without_identities(model, other)
        if conv is None or held is None or not _is_free(model, held, total, order):
            continue
        (after, *more) = total.users
        ends = after if not more and _is_relu(model, after) else total
        with graph.inserting_before(ends):
            x, *rest = _parts(graph, model, conv)
            made = graph.call_function(
                torch.ops.mkldnn._convolution_pointwise_.binary,
                (held, x, *rest, "add", 1.0, "relu" if ends is after else None, [], None),
            )
        ends.replace_all_uses_with(made)
        order[made] = order[ends]
        return True
    return False


def _parts(graph: fx.Graph, model: nn.Module, conv: fx.Node) -> tuple[Any, ...]:
    """What an operation is given of a convolution: its input, weight, bias, padding, stride, dilation, groups."""
    module: Any = model.get_submodule(str(conv.target))
    weight = graph.get_attr(f"{conv.target}.weight")
    bias = None if module.bias is None else graph.get_attr(f"{conv.target}.bias")
    return conv.args[0], weight, bias, module.padding, module.stride, module.dilation, module.groups


def _conv_before(model: nn.Module, node: Any) -> fx.Node | None:
    """The call of a plain convolution that gives a value, through identities, to one reader alone."""
    while isinstance(node, fx.Node) and node.op == "call_module" and len(node.users) == 1 and len(node.args) == 1:
        module = model.get_submodule(str(node.target))
        if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            return node if not node.kwargs else None
        if not isinstance(module, nn.Identity):
            return None
        node = node.args[0]
    return None


def _is_free(model: nn.Module, value: fx.Node, reader: fx.Node, order: dict[fx.Node, int]) -> bool:
    """Whether a sum is the last that reads a value, and the value is a tensor of its own, which can hold the sum."""
    readers = list(value.users)
    for node in readers:
        if _is_identity(model, node):
            readers += node.users
        elif order[node] > order[reader]:
            return False
    if value.op == "call_module":
        return type(model.get_submodule(str(value.target))) in _MAKERS
    if value.op != "call_function":
        return False
    return value.target in (*_SUMS, F.pad) or getattr(value.target, "namespace", "") == "mkldnn"


def _without_identities(model: nn.Module, node: Any) -> fx.Node | None:
    while isinstance(node, fx.Node) and _is_identity(model, node):
        node = node.args[0]
    return node if isinstance(node, fx.Node) else None


def _is_identity(model: nn.Module, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(model.get_submodule(str(node.target)), nn.Identity)


def _is_sum(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in _SUMS


def _is_relu(model: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(model.get_submodule(str(node.target))) is nn.ReLU
    return node.op == "call_function" and node.target in (F.relu, torch.relu) and len(node.args) == 1
