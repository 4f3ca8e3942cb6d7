"""The rest of a model, from the features at a tap to the logits; and its last linear layer."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.func import functional_call

from stillroom.errors import BadInput, nearest
from stillroom.models.modes import device_of, eval_mode, plain_attention
from stillroom.models.reader import FEATURES, LOGITS, PRE, TapReader, tap_modules
from stillroom.models.tracing import Traced, Untraceable, is_fresh, is_size, root_of, trace

# In evaluation mode these give what they are given.
_PASSED_ON = (
    *(torch.ops.aten.dropout.default, torch.ops.aten.clone.default, torch.ops.aten.alias.default),
    *(torch.ops.aten.detach.default, torch.ops.aten.contiguous.default),
)


class Tail(nn.Module):
    """A model from a tap on: features [B, …] → logits [B, K], for any B, as the model computes them in evaluation mode.

    It shares its tensors with the model until it is moved, holds those after the tap alone, and has none in any state
    dict. They are constants: gradients flow to the features and to nothing else. ``train()`` changes nothing.

    Attributes:
        replayed: whether the whole model is run, as it could not be traced.
        reads_ids: whether it needs the token ids of the batch too, int32 [B, L], which say where a text is padded.
    """

    def __init__(self, tap: str, rest: nn.Module, tensors: Sequence[Tensor] = (), *, reads_ids: bool = False) -> None:
        super().__init__()
        self.tap = tap
        self.reads_ids = reads_ids
        self.replayed = isinstance(rest, Replay)
        self._rest = rest
        self._count = len(tensors)
        for place, tensor in enumerate(tensors):
            self.register_buffer(f"tensor_{place}", tensor.detach(), persistent=False)

    @property
    def head(self) -> Tensor | None:
        """The weights W [K, d], where the rest is one linear layer of features [B, d]; else None."""
        if not isinstance(self._rest, fx.GraphModule):
            return None
        (node,) = next(n for n in self._rest.graph.nodes if n.op == "output").all_input_nodes
        while node.target in _PASSED_ON:
            node = node.args[0]
        if node.target is not torch.ops.aten.linear.default:
            return None
        features, weight = node.args[:2]
        while features.target in _PASSED_ON:
            features = features.args[0]
        if features.target != "features" or not str(weight.target).startswith("tensor_"):
            return None
        head: Tensor = getattr(self, str(weight.target))
        return head

    def forward(self, features: Tensor, ids: Tensor | None = None) -> Tensor:
        """Features as the tap reads them [B, …], of texts with their ids → logits [B, K]."""
        if isinstance(self._rest, fx.GraphModule):
            _move_constants(self._rest, features.device)
        given = (ids,) if self.reads_ids else ()
        tensors = (getattr(self, f"tensor_{place}") for place in range(self._count))
        logits: Tensor = self._rest(features, *given, *tensors)
        return logits


def tail_of(
    model: nn.Module, tap: str, example: Tensor, *, traced: Traced | None = None, field: str = "teacher"
) -> Tail:
    """Cut a model at a tap, and keep what comes after: tail(features) = model(x), features what the tap reads of x.

    The same operations in the same order: on the CPU the same bits for the same batch, to rounding otherwise. Where
    the model cannot be traced, the whole of it is run again with the features put in, if that is found to be exact.

    Args:
        example: an input [B, …] as the model gets it, of images that are not all alike.
        traced: what :func:`~stillroom.models.tracing.trace` gave of this model, where several tails are cut.

    Raises:
        BadInput: no such tap; a path leads past it to the logits; or no exact tail can be made.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> x = torch.ones(5, 2)
    >>> tail = tail_of(net, "1", x)
    >>> torch.equal(tail(net[:2](x)), net(x)), len(tail.state_dict())
    (True, 0)
    """
    taps = TapReader(model, [tap], field=field)
    try:
        traced = traced or trace(model, example)
        node = _node(traced, tap)
        if node not in traced.cuts():
            known = [path for path, given in traced.outputs.items() if given in traced.cuts()]
            expected = f"a tap that every path to the logits crosses, as one leads past this ({nearest(tap, known)})"
            raise BadInput(f"{field} tap", tap, expected)
        tail = _cut(traced, node, tap)
        if not _matches_model(tail, model, taps, example):
            raise Untraceable("the traced operations give other logits than the model")
        return tail
    except Untraceable as error:
        if can_replay(model, tap, example):
            return Tail(tap, Replay(model, tap, example))
        expected = (
            f"a tap whose features decide the logits; the model cannot be traced ({error}), and run again with the "
            "features put in it gave other logits. Name another module, or make its forward pass free of branches"
        )
        raise BadInput(f"{field} tap", tap, expected) from None


def _node(traced: Traced, name: str) -> fx.Node:
    found: Any = None
    if name == LOGITS:
        found = traced.logits
    elif name == FEATURES:
        classifier = traced.classifier()
        found = classifier.args[0] if classifier is not None else None
    elif name.endswith(PRE):
        found = traced.activated.get(name.removesuffix(PRE))
    else:
        found = traced.outputs.get(name)
    if not isinstance(found, fx.Node):
        raise Untraceable(f"its graph has no operation that gives {name!r} alone")
    return found


def _cut(traced: Traced, cut: fx.Node, name: str) -> Tail:
    needed = _required_nodes(traced, cut)
    graph = fx.Graph()
    new = {cut: graph.placeholder("features")}
    reads_ids = traced.image in needed
    if reads_ids:
        new[traced.image] = graph.placeholder("ids")
    kept = [node for node in traced.graph.nodes if node in needed and node in traced.tensors]
    for place, node in enumerate(kept):
        new[node] = graph.placeholder(f"tensor_{place}")
    batch: fx.Node | None = None
    holder = nn.Module()
    for node in traced.graph.nodes:
        if node not in needed or node in new:
            continue
        if node.op == "placeholder":
            raise Untraceable(f"it needs {node.name!r}, which is no tensor")
        if is_size(node):
            batch = batch or graph.call_function(torch.ops.aten.sym_size.int, (new[cut], 0))
            new[node] = _size(graph, batch, node, traced)
            continue
        if node.op == "get_attr":
            setattr(holder, str(node.target), getattr(traced.program.graph_module, str(node.target)))
        if is_fresh(node):
            # Of the tensor that it is made like, it takes the type and the device: as good as any other's.
            new.setdefault(node.all_input_nodes[0], new[cut])
        copy = graph.node_copy(node, lambda source: new[source])
        # What tracing noted of it holds on to the traced tensors.
        copy.meta = {}
        if copy.target in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
            # The same, but for any layout in memory: features need not lie as those of the example did.
            copy.target = torch.ops.aten.reshape.default
        new[node] = copy
    graph.output(new[traced.logits])
    graph.lint()
    return Tail(name, fx.GraphModule(holder, graph), [traced.tensors[node] for node in kept], reads_ids=reads_ids)


def _required_nodes(traced: Traced, cut: fx.Node) -> set[fx.Node]:
    """What the logits are made of, from the cut on."""
    shape = cut.meta["val"].shape
    if not len(shape) or shape[0] != traced.image.meta["val"].shape[0]:
        raise Untraceable("its features do not begin with the batch")
    needed: set[fx.Node] = set()
    waiting = [traced.logits]
    while waiting:
        node = waiting.pop()
        if node in needed or node is cut:
            continue
        needed.add(node)
        if is_size(node):
            continue
        waiting += node.all_input_nodes[1:] if is_fresh(node) else node.all_input_nodes
        # What fills a constant gives nothing that anybody reads, and is needed all the same.
        waiting += traced.writes.get(root_of(node), ())
    return needed


def _size(graph: fx.Graph, batch: fx.Node, node: fx.Node, traced: Traced) -> fx.Node:
    """A number that depends on the batch, from the batch of the features."""
    value = node.meta["val"]
    symbol = traced.image.meta["val"].shape[0].node.expr
    factor = value.node.expr / symbol if isinstance(value, torch.SymInt) else None
    if factor is None or not factor.is_Integer:
        raise Untraceable(f"a size in it is no multiple of the batch ({value})")
    return batch if factor == 1 else graph.call_function(operator.mul, (batch, int(factor)))


def _move_constants(rest: fx.GraphModule, device: torch.device) -> None:
    """Make constants where the features are: the graph names the device that it was traced on."""
    elsewhere = [node for node in rest.graph.nodes if node.kwargs.get("device", device) != device]
    for node in elsewhere:
        node.kwargs = {**node.kwargs, "device": device}
    if elsewhere:
        rest.recompile()


def _matches_model(tail: Tail, model: nn.Module, taps: TapReader, example: Tensor) -> bool:
    with eval_mode(model), torch.no_grad(), plain_attention():
        with taps:
            wanted = model(example)
        features = taps.take()[tail.tap]
        whole = logits_match(tail(features, example), wanted)
        return whole and logits_match(tail(features[:1], example[:1]), wanted[:1])


class Replay(nn.Module):
    """Runs a whole model on an image of noise and puts features in at a tap: the logits are those of the features.

    It costs a whole pass, with gradients from the tap on alone. It is exact where the tap cuts the model, which
    :func:`can_replay` tries out. The model is held by reference, its tensors are shared, and none is in a state dict.
    """

    def __init__(self, model: nn.Module, tap: str, example: Tensor) -> None:
        super().__init__()
        # In a list, so that it is no part of this module.
        self._model = [model]
        modules, self._side = tap_modules(model, tap)
        self._modules_at = list(modules)
        self._calls = 0
        noise = torch.rand(example[:1].shape, generator=torch.Generator().manual_seed(0))
        self._names: list[str] = []
        self.register_buffer("noise", noise.to(example), persistent=False)
        for place, (name, tensor) in enumerate([*model.named_parameters(), *model.named_buffers()]):
            self._names.append(name)
            self.register_buffer(f"tensor_{place}", tensor.detach(), persistent=False)
        self._calls = self._run(None, self.noise)[1]

    noise: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, …] → logits [B, K]."""
        logits, _ = self._run(features, self.noise.expand(len(features), *self.noise.shape[1:]))
        return logits

    def _run(self, features: Tensor | None, images: Tensor) -> tuple[Tensor, int]:
        calls = 0

        def put(module: nn.Module, *given: Any) -> Any:
            nonlocal calls
            calls += 1
            if features is None or calls != self._calls:
                return None
            # A copy: a model that works in place must not change what it was given.
            return features.clone() if self._side == "output" else (features.clone(), *given[0][1:])

        model = self._model[0]
        tensors = {name: self.get_buffer(f"tensor_{place}") for place, name in enumerate(self._names)}
        with ExitStack() as hooks, eval_mode(model), plain_attention():
            for module in self._modules_at:
                on_output = self._side == "output"
                register = module.register_forward_hook if on_output else module.register_forward_pre_hook
                hooks.enter_context(register(put))
            return functional_call(model, tensors, (images,)), calls


def can_replay(model: nn.Module, tap: str, example: Tensor) -> bool:
    """Whether what a tap reads decides the logits: put into a pass over other images, it gives the same ones.

    False also where both images give the same logits, so that it cannot be decided.

    >>> torch.manual_seed(0)
    <torch._C.Generator object at ...>
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    >>> can_replay(net, "1", torch.ones(1, 2))
    True
    """
    taps = TapReader(model, [tap])
    images = example.to(device_of(model))
    try:
        with eval_mode(model), torch.no_grad():
            with taps:
                wanted = model(images)
            again = Replay(model, tap, images)
            features = taps.take()[tap]
            actual = again(features)
            other = again._run(None, again.noise.expand(images.shape))[0]
    except Exception:  # a model's own code can fail in any way where something else is put in
        return False
    if not isinstance(wanted, Tensor) or actual.shape != wanted.shape or torch.equal(other, wanted):
        return False
    return logits_match(actual, wanted)


def logits_match(actual: Tensor, expected: Tensor) -> bool:
    """Whether two batches of logits are the same but for rounding.

    >>> logits_match(torch.tensor([1.0]), torch.tensor([1.00001]))
    True
    """
    # Wide enough for the shortened float32 of GPUs; what a wrong cut gives is of another size.
    tolerance = 1e-3 if actual.dtype in (torch.float32, torch.float64) else 3e-2
    worst = (actual.double() - expected.double()).abs().max()
    return bool(worst <= tolerance * expected.double().abs().max().clamp_min(1e-12))


def head_tensors(model: nn.Module, example: Tensor, classes: int, *, field: str = "model") -> list[str]:
    """Names of the weights of the layer that makes the logits: the last one with a row for each class.

    Args:
        model: what ends in it.
        example: two inputs.
        classes: number of rows.
        field: what errors call the model.

    Raises:
        BadInput: no layer has so many rows.

    >>> head_tensors(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4)), torch.ones(2, 2), 4)
    ['2.weight', '2.bias']
    """
    try:
        head = find_head(model, example)
    except Exception:  # a user's module can fail in any way; it is tried on the data later
        head = None
    heads = [head] if head is not None else _last_with_rows(model, classes)
    if not heads:
        raise BadInput(f"{field}.head", "new", f"a model whose last layer has a row for each of {classes} classes")
    return [f"{each}.{name}".removeprefix(".") for each in heads for name in model.get_submodule(each).state_dict()]


def _last_with_rows(model: nn.Module, rows: int) -> list[str]:
    """The last modules with parameters, as long as all of these have so many rows: a convolution, or several heads."""
    found: list[str] = []
    for name, module in reversed(list(model.named_modules())):
        own = {len(each) if each.dim() else 0 for each in module.parameters(recurse=False)}
        if own and own != {rows}:
            break
        if own:
            found.insert(0, name)
    return found


def find_head(model: nn.Module, example: Tensor) -> str | None:
    """Path of the linear layer whose output the logits are; None where they are made otherwise.

    One pass suffices, where :func:`tail_of` traces the whole model. A layer counts if the model
    gives what it gave, and what it gave is W·h + b of its own weights: behind a temperature or an activation, or where
    a layer normalises its weights, there is none.

    >>> find_head(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4), nn.Dropout()), torch.ones(2, 2))
    '2'
    >>> find_head(nn.Sequential(nn.Linear(2, 3), nn.Tanh()), torch.ones(2, 2)) is None
    True
    """
    seen: list[tuple[str, nn.Linear, Tensor, Tensor]] = []

    def note(name: str, layer: nn.Linear) -> Any:
        def read(module: nn.Module, inputs: Any, output: Any) -> None:
            if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                seen.append((name, layer, inputs[0], output))

        return read

    with ExitStack() as hooks, eval_mode(model), torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                hooks.enter_context(module.register_forward_hook(note(name, module)))
        logits = model(example)
        for name, layer, features, output in reversed(seen):
            # The same memory: equal values alone could be of a layer to which nothing was added yet.
            if output.shape != logits.shape or output.data_ptr() != logits.data_ptr() or features.dim() != 2:
                continue
            if features.dtype != layer.weight.dtype:
                continue
            if logits_match(F.linear(features, layer.weight, layer.bias), logits):
                return name
    return None
