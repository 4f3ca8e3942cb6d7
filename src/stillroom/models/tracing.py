"""A model's operations as a graph, for any batch size: which tensor each module gives, and where all paths cross."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from stillroom.data.tokens import DTYPE
from stillroom.models.modes import eval_mode, plain_attention, suppress_output


class Untraceable(Exception):  # noqa: N818
    """A model's operations cannot be written down as one graph: why, in a line."""


@dataclass(frozen=True)
class Traced:
    """A model in evaluation mode as a graph of operations, none of which overwrites what another gave."""

    program: ExportedProgram  # the graph's owner; it holds the model's own tensors, not copies
    graph: fx.Graph
    image: fx.Node
    logits: fx.Node
    tensors: dict[fx.Node, Tensor]  # parameter, buffer or constant that each other input of the graph stands for
    data: frozenset[fx.Node]  # the operations that the images flow through on their way to the logits
    outputs: dict[str, fx.Node]  # module path → the operation that gives its output, that of its last call
    activated: dict[str, fx.Node]  # module path → what its last activation was given, in its last call
    writes: dict[fx.Node, list[fx.Node]]  # operations that overwrite, by the fresh constant that they overwrite

    def cuts(self) -> list[fx.Node]:
        """The operations that every path from the image to the logits crosses, the logits last."""
        found = []
        order = {node: place for place, node in enumerate(self.graph.nodes)}
        reach = -1
        for node in self.graph.nodes:
            if node not in self.data:
                continue
            # In an order of doing, a path can pass an operation by only along an edge that jumps over it.
            if reach <= order[node] and node is not self.image:
                found.append(node)
            reach = max(reach, *(order[user] for user in node.users if user in self.data), -1)
        return found

    def classifier(self) -> fx.Node | None:
        """The last linear layer: that whose output the logits are, but for scaling, dropout and shape."""
        node = self.logits
        while True:
            if _packet(node) in _WEIGHTED and node.args[1] not in self.data:
                return node
            sources = [source for source in node.all_input_nodes if source in self.data]
            if len(sources) != 1 or sources[0] is self.image or _packet(node) in _SHAPING_STOPS:
                return None
            node = sources[0]


_WEIGHTED = ("linear", "addmm", "conv2d", "convolution", "matmul", "mm")
_ACTIVATIONS = (
    *("relu", "relu6", "hardtanh", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu", "mish"),
    *("hardswish", "hardsigmoid", "sigmoid", "tanh", "softplus", "softsign", "threshold", "clamp"),
)
# Behind one of these, what comes before is no linear layer of the logits.
_SHAPING_STOPS = (*_ACTIVATIONS, "softmax", "log_softmax", "batch_norm", "layer_norm", "mean", "adaptive_avg_pool2d")


def trace(model: nn.Module, example: Tensor) -> Traced:
    """Write down what a model does with a batch of any size, in evaluation mode.

    Args:
        example: an input [B, …] as the model gets it; its values do not matter.

    >>> traced = trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.zeros(1, 2))
    >>> [traced.outputs["0"] in traced.cuts(), traced.classifier() is traced.outputs["2"]]
    [True, True]
    """
    # A batch of one is taken for a constant.
    images = (example if len(example) > 1 else torch.cat([example, example])).detach()
    try:
        with eval_mode(model), torch.no_grad(), plain_attention(), suppress_output():
            program = torch.export.export(model, (images,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False)
        try:
            return _read(program)
        except _Overwrites:
            return _read(program.run_decompositions({}))
    except Untraceable:
        raise
    except Exception as error:  # a model's own code can fail in any way on symbolic values
        if "data-dependent" in str(error):
            raise Untraceable("what it does depends on the values of a tensor") from None
        lines = str(error).strip().splitlines() or [""]
        raise Untraceable(f"{type(error).__name__}: {lines[0]}"[:200]) from None


class _Overwrites(Untraceable):
    """An operation overwrites a tensor in a way that cannot be undone by renaming."""


def _read(program: ExportedProgram) -> Traced:
    graph = program.graph
    nodes = {node.name: node for node in graph.nodes}
    signature = program.graph_signature
    held: dict[str, Any] = {**program.state_dict, **program.constants}
    images, tensors = [], {}
    for spec in signature.input_specs:
        node = nodes[spec.arg.name]
        if spec.kind == InputKind.USER_INPUT:
            images.append(node)
        elif isinstance(held.get(str(spec.target)), Tensor):
            tensors[node] = held[str(spec.target)]
    outputs = [spec for spec in signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]
    if len(images) != 1 or len(outputs) != 1:
        raise Untraceable(f"it takes {len(images)} inputs and gives {len(outputs)}; one tensor each was expected")
    if len(signature.output_specs) != 1:
        raise Untraceable("it changes its own buffers in evaluation mode")
    _rename_overwrites(graph, images[0], tensors)
    logits = next(n for n in graph.nodes if n.op == "output").all_input_nodes
    if len(logits) != 1 or not isinstance(logits[0].meta.get("val"), Tensor):
        raise Untraceable("its output is not one tensor")
    data = _flow(graph, images[0], logits[0])
    if logits[0] not in data:
        raise Untraceable("its output does not depend on its input")
    return Traced(program, graph, images[0], logits[0], tensors, data, *_modules(graph), _writes(graph))


def _rename_overwrites(graph: fx.Graph, image: fx.Node, tensors: dict[fx.Node, Tensor]) -> None:
    """Make each in-place operation on what images flow through one that gives a new tensor."""
    order = {node: place for place, node in enumerate(graph.nodes)}
    downstream = _downstream(image)
    for node in list(graph.nodes):
        if not _overwrites(node):
            continue
        target = _first(node)
        root = root_of(target)
        if root in tensors:
            raise Untraceable(f"{node.target} overwrites one of its weights")
        if not (downstream & {root, target, *node.all_input_nodes}):
            continue  # it fills a constant, which the part after a cut can do again
        plain = _plain(node)
        same = [n for n in graph.nodes if n is not node and order[n] < order[node] and root_of(n) is root]
        later = {other for n in same for other in n.users if order[other] > order[node]}
        if plain is None or any(n is not target and later & set(n.users) for n in same):
            raise _Overwrites(f"{node.target} overwrites part of a tensor")
        node.target = plain
        for user in [user for user in target.users if order[user] > order[node]]:
            user.replace_input_with(target, node)


def _plain(node: fx.Node) -> Any:
    """The operation that gives a new tensor where this one overwrites its first argument."""
    target: Any = node.target
    packet = getattr(torch.ops.aten, target._schema.name.removeprefix("aten::").removesuffix("_"), None)
    return getattr(packet, target._overloadname, None)


def _writes(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        if _overwrites(node):
            found.setdefault(root_of(_first(node)), []).append(node)
    return found


def _modules(graph: fx.Graph) -> tuple[dict[str, fx.Node], dict[str, fx.Node]]:
    """For each module, the one operation of its last call that others read, and what its last activation was given."""
    calls: dict[str, tuple[str, str]] = {}
    members: dict[tuple[str, str], set[fx.Node]] = {}
    for node in graph.nodes:
        for key, path in _stack(node):
            calls[path] = key, path
            members.setdefault((key, path), set()).add(node)
    outputs, activated = {}, {}
    for path, call in calls.items():
        inside = members[call]
        given = [node for node in inside if any(user not in inside for user in node.users)]
        tensors = [node for node in given if isinstance(node.meta.get("val"), Tensor)]
        if len(tensors) == 1:
            outputs[path] = tensors[0]
        if activations := [node for node in graph.nodes if node in inside and is_activation(node)]:
            activated[path] = _first(activations[-1])
    return outputs, activated


def _stack(node: fx.Node) -> Iterator[tuple[str, str]]:
    for key, (path, *_) in (node.meta.get("nn_module_stack") or {}).items():
        if path and node.op == "call_function":
            yield str(key), str(path)


def _flow(graph: fx.Graph, image: fx.Node, logits: fx.Node) -> frozenset[fx.Node]:
    """What lies on a path from the image to the logits; the size of a batch, read of a tensor, is no path."""
    after = _downstream(image)
    before, waiting = set(), [logits]
    while waiting:
        node = waiting.pop()
        if node not in before:
            before.add(node)
            waiting += [source for source in node.all_input_nodes if source in after]
    return frozenset(after & before)


def _downstream(image: fx.Node) -> set[fx.Node]:
    found, waiting = set(), [image]
    while waiting:
        node = waiting.pop()
        if node not in found and node.op != "output" and not is_size(node) and not is_fresh(node) and not is_mask(node):
            found.add(node)
            waiting += list(node.users)
    return found


def is_activation(node: fx.Node) -> bool:
    """Whether an operation is a nonlinearity, element by element."""
    return node.op == "call_function" and _packet(node) in _ACTIVATIONS


def owner(node: fx.Node) -> str:
    """Path of the innermost module that does an operation; empty for the model itself."""
    return [path for _, path in _stack(node)][-1] if any(_stack(node)) else ""


def is_fresh(node: fx.Node) -> bool:
    """Whether a node makes a constant of a given size, and takes from a tensor only how it is stored."""
    return _packet(node) in ("new_zeros", "new_ones", "new_full", "new_empty")


def is_mask(node: fx.Node) -> bool:
    """Whether a node says where a text has tokens: a comparison of its ids, which carries none of its content."""
    if node.op != "call_function" or _packet(node) not in ("ge", "gt", "lt", "le", "eq", "ne"):
        return False
    source = node.args[0]
    given = source.meta.get("val") if isinstance(source, fx.Node) and source.op == "placeholder" else None
    return isinstance(given, Tensor) and given.dtype == DTYPE


def is_size(node: fx.Node) -> bool:
    """Whether a node gives a whole number rather than a tensor."""
    return isinstance(node.meta.get("val"), torch.SymInt | int)


def root_of(node: fx.Node) -> fx.Node:
    """The tensor whose memory a node's result lies in."""
    while True:
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None or not any(r.alias_info for r in schema.returns):
            return node
        sources = node.all_input_nodes
        if not sources:
            return node
        node = sources[0]


def _overwrites(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def _first(node: fx.Node) -> fx.Node:
    first = node.args[0]
    assert isinstance(first, fx.Node)
    return first


def _packet(node: fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else str(schema.name).removeprefix("aten::").removesuffix("_")
