"""What a training step computes, as it computes it: torch's functions, the modules that were run, the user's lines."""

from __future__ import annotations

import os
import sys
import sysconfig
import weakref
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stillroom.diagnose.audit.source import overwritten_input, truncated_weight

# A window holds its tensors until it ends; where it holds more than this, its oldest half is forgotten.
MAX_NODES, MAX_BYTES = 6000, 512 * 2**20
# Instructions of the user's code whose lines are kept.
MAX_INSTRUCTIONS = 20_000
# Read-only facts of a tensor, and functions that give no tensor: not recorded.
_SKIPPED = frozenset(
    (
        "dim",
        "size",
        "numel",
        "__len__",
        "is_floating_point",
        "stride",
        "ndimension",
        "__repr__",
        "__format__",
        "backward",
    )
)
_ESCAPES = frozenset(["numpy", "tolist", "__array__"])
_IN_PLACE = frozenset(("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__idiv__", "__ipow__"))
# By these a script looks at a number: to print it, or to decide something.
_READS = frozenset(
    ["item", "tolist", "__format__", "__float__", "detach", "isfinite", "isnan", "isinf", "ne", "__ne__"]
)
_INTERNAL = tuple(
    str(Path(path)) + "/"
    for path in (
        Path(torch.__file__).parent,
        Path(__file__).parent.parent.parent,
        sysconfig.get_paths()["stdlib"],
        sysconfig.get_paths()["purelib"],
        sysconfig.get_paths()["platlib"],
    )
)


@dataclass(frozen=True)
class CodeLine:
    """A line of the user's code."""

    file: str
    line: int

    def __str__(self) -> str:
        return _shown(self.file, self.line)


@cache
def _shown(file: str, line: int) -> str:
    return f"{os.path.basename(file)}:{line}"


_is_user: dict[str, bool] = {}
_lines: dict[tuple[str, int], CodeLine] = {}
# By a code object and the instruction in it, which are cheap to read; the line of an instruction is not.
_instructions: dict[tuple[int, int], tuple[Any, CodeLine]] = {}


def is_user(file: str) -> bool:
    """Whether a file of code is the user's own."""
    known = _is_user.get(file)
    if known is None:
        known = _is_user[file] = not (
            file.startswith((*_INTERNAL, "<")) or "/site-packages/" in file or "/dist-packages/" in file
        )
    return known


def user_frame(depth: int = 1) -> Any:
    """The innermost frame of the user's own code; None where there is none."""
    frame = sys._getframe(depth)
    while frame is not None:
        file = frame.f_code.co_filename
        known = _is_user.get(file)
        if known or (known is None and is_user(file)):
            return frame
        frame = frame.f_back  # type: ignore[assignment]
    return None


def place(depth: int = 1) -> CodeLine | None:
    """The innermost line of the user's own code; None where there is none."""
    frame = user_frame(depth + 1)
    return line_of(frame) if frame is not None else None


def line_of(frame: Any) -> CodeLine:
    """The line that a frame stands at: one object for each line."""
    code = frame.f_code
    instruction = id(code), frame.f_lasti
    seen = _instructions.get(instruction)
    if seen is not None and seen[0] is code:
        return seen[1]
    key = code.co_filename, frame.f_lineno
    found = _lines.get(key)
    if found is None:
        found = _lines[key] = CodeLine(*key)
    if len(_instructions) < MAX_INSTRUCTIONS:
        # With the code object: as long as it is held, no other has its identity.
        _instructions[instruction] = code, found
    return found


# What most other arguments of torch's functions are; they hold no tensor.
_PLAIN = frozenset((int, float, bool, str, type(None), torch.dtype, torch.device))


def tensors_in(*values: Any) -> list[Tensor]:
    """The tensors in arguments, in order, through tuples, lists, mappings and objects that hold their fields so."""
    found: list[Tensor] = []
    _collect_tensors(values, found)
    return found


def captured_by(function: Any) -> list[Any]:
    """What a function brings with it: the arguments of a ``partial``, the variables that it closes over."""
    found: list[Any] = []
    while isinstance(function, partial):
        found += [*function.args, *function.keywords.values()]
        function = function.func
    for cell in getattr(function, "__closure__", None) or ():
        with suppress(ValueError):  # of a variable that has no value yet
            found.append(cell.cell_contents)
    return found


_SEQUENCES = (list, tuple)


def _collect_tensors(values: Iterable[Any], found: list[Tensor]) -> None:
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif type(value) in _PLAIN:
            continue
        elif isinstance(value, _SEQUENCES):
            _collect_tensors(value, found)
        elif type(value) is dict:
            if value:
                _collect_tensors(value.values(), found)
        elif isinstance(value, Mapping):
            _collect_tensors(value.values(), found)
        elif hasattr(value, "__dataclass_fields__"):
            _collect_tensors(vars(value).values(), found)


def _with_tensors(value: Any, given: Iterator[Tensor]) -> Any:
    """The same arguments with other tensors, taken in order."""
    if isinstance(value, Tensor):
        return next(given)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_with_tensors(each, given) for each in value))
    if isinstance(value, list | tuple):
        return type(value)([_with_tensors(each, given) for each in value])
    if isinstance(value, Mapping):
        return {key: _with_tensors(each, given) for key, each in value.items()}
    return value


@dataclass(eq=False, slots=True)
class Call:
    """One call of a module."""

    module: nn.Module  # the module
    label: str  # its class, and the variable that held it
    place: CodeLine | None  # the user's line that called it
    training: bool  # its mode
    grad: bool  # whether gradients were recorded
    start: int  # the first node of the tape that belongs to it
    inputs: tuple[Tensor, ...]  # the tensors that it was given
    outputs: tuple[Tensor, ...] = ()  # the tensors that it gave
    inner: list[Call] = field(default_factory=list)  # calls of modules with parameters inside it, the outermost of each
    # What the modules inside it gave, and which module each; what was cut off from their gradients, as by a hook, too.
    inside: list[tuple[weakref.ref[Tensor], nn.Module]] = field(default_factory=list)
    # Functions that act differently in training (dropout, batch norm) and did so.
    live: set[str] = field(default_factory=set)
    still: set[str] = field(default_factory=set)  # those that were there and were switched off
    sources: int = 0  # what its inputs were computed from, as bits of the tape's sources
    flowing: int = 0  # of these, what its inputs' gradient reaches
    first_source: int = 0  # the first source of the tape that was met inside it
    start_bytes: int = 0  # what the tape held before it


@dataclass(eq=False, slots=True)
class Source:
    """Something that a loss is computed from: a network's output, an activation inside it, a stored tensor."""

    kind: str  # ``network``, ``inside`` (an activation that a hook took), ``parameter`` or ``constant``
    tensor: Tensor  # its value
    call: Call | None = None  # the module call that it came from
    derived: bool = False  # of ``inside``: whether a function of a hook, or of the network, made it without a gradient
    earlier: tuple[Call, ...] = ()  # for a constant, the networks whose outputs it was made of in an earlier step


@dataclass(eq=False, slots=True)
class Node:
    """One call of a torch function: its arguments, where each tensor among them came from, and what it gave."""

    function: Any
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: tuple[Tensor, ...]
    origins: tuple[tuple[int, int] | None, ...]
    outputs: tuple[Tensor, ...]
    place: CodeLine | None
    in_place: bool
    sources: int
    gradient: int
    call: Call | None = None
    names: tuple[tuple[str, bool], ...] = ()
    truncated: str = ""  # of a product with 0, the expression that cuts the factor to a whole number
    overwrites: str | None = None  # of a loss of class numbers, the user's variable of other content that they took

    @property
    def where(self) -> str | None:
        """The user's line, as it is shown."""
        return str(self.place) if self.place is not None else None

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)


# By torch's function: its name, whether a script looks at a number by it, and how it is recorded.
_functions: dict[Any, tuple[str, bool, str]] = {}


def _describe(function: Any) -> tuple[str, bool, str]:
    name = getattr(function, "__name__", type(function).__name__)
    reads = name in _READS
    if name == "__get__":
        name = function.__self__.__name__
        return name, reads, "skipped" if name == "grad" else "attribute"
    if name in _SKIPPED or name == "__set__":
        return name, reads, "skipped"
    return name, reads, "iterates" if name == "__iter__" else "plain"


@cache
def _is_in_place(name: str) -> bool:
    return (name[-1] == "_" and name[-2:] != "__") or name in _IN_PLACE


OF_CLASSES = ("cross_entropy", "nll_loss")
_HAVE_MODES = frozenset(("dropout", "batch_norm", "lstm", "gru", "scaled_dot_product_attention", "alpha_dropout"))
_MULTIPLIES = frozenset(("mul", "__rmul__", "mul_", "multiply"))


def names_of(number: float) -> tuple[tuple[str, bool], ...]:
    """Variables of the user's innermost frame that hold a number, or one minus it (then with True)."""
    frame = user_frame(3)
    if frame is None:
        return ()
    found: dict[str, bool] = {}

    def look(items: Iterable[tuple[Any, Any]], depth: int) -> None:
        for key, value in items:
            if isinstance(value, float) and isinstance(key, str):
                if value == number or 1 - value == number:
                    found.setdefault(key, value != number)
            elif depth and isinstance(value, dict) and len(value) < 100:
                look(list(value.items()), depth - 1)
            elif depth and not isinstance(value, type) and isinstance(getattr(value, "__dict__", None), dict):
                look(list(vars(value).items()), depth - 1)

    look(list(frame.f_locals.items()), 1)
    return tuple(found.items())


# What changes a number in place, and the function that gives the same as a new one.
_SUMS_IN_PLACE: dict[Any, tuple[Any, str]] = {
    getattr(Tensor, in_place): (getattr(torch, name), name)
    for name, spellings in (
        *(("add", ("add_", "__iadd__")), ("sub", ("sub_", "__isub__"))),
        *(("mul", ("mul_", "__imul__")), ("div", ("div_", "__itruediv__", "__idiv__"))),
    )
    for in_place in spellings
}


# Not None under ``torch.jit.trace``: what a watcher reads of a tensor, as its size, would be part of the trace.
tracing_state = torch._C._get_tracing_state
_MAY_DO_NOTHING = frozenset(("to", "float", "double", "half", "bfloat16", "type", "cpu", "cuda", "contiguous"))


def _is_leaf(tensor: Tensor) -> bool:
    """Whether no operation made a tensor.

    torch refuses to say so of a row of a parameter that was changed in place without gradients, as ``EmbeddingBag``
    does with that of the padding.
    """
    try:
        return tensor.is_leaf
    except RuntimeError:
        return False


class Tape(TorchFunctionMode):
    """Records torch's functions while it is entered and ``active``.

    Where it would hold too much, it forgets what it has, and ``lost`` says so until the next window.

    A module with parameters whose output is no scalar is one step of the tape: what happens inside it is forgotten
    when it returns. A module that gives a loss, or that runs several networks side by side, is looked through.
    """

    def __init__(self, failed: Callable[[Exception], bool]) -> None:
        """``failed`` takes an error of the recording itself, and says whether it ends the recording, not the script."""
        super().__init__()
        self._failed = failed
        self.active = True
        self.is_loading = False  # a DataLoader gathers rows: what was computed from no network is not recorded
        self._entered = False
        self._earlier: dict[int, tuple[weakref.ref[Tensor], tuple[Call, ...]]] = {}
        self.clear()

    def clear(self) -> None:
        """Begin a new window; tensors that outlive the old one keep the networks that they came from."""
        # Through the modes that are entered, each attribute of a tensor would be a call in Python.
        with torch._C.DisableTorchFunction():
            survivors = self._outputs_of_networks() if hasattr(self, "nodes") else []
        self.nodes: list[Node] = []
        self.sources: list[Source] = []
        self.open: list[Call] = []
        self.escaped = self.first = 0
        # Nodes that the script looked at the value of, and the last scalar with a gradient among what it gave.
        self.read: set[int] = set()
        self.lost = False
        self.looked_at: Tensor | None = None
        # Modules inside networks whose outputs were used outside, and whether some tensor came from nowhere.
        self.hooked: set[nn.Module] = set()
        self.strays = False
        self.last: int | None = None
        self._bytes = 0
        self._origin: dict[int, tuple[int, int]] = {}
        self._bit: dict[int, int] = {}
        self._inside: dict[int, tuple[weakref.ref[Tensor], Call, nn.Module]] = {}
        self._cut: set[int] = set()
        for key, reference, calls in survivors:
            if reference() is not None:
                for call in calls:
                    call.inputs, call.outputs, call.inner = (), (), []
                self._earlier[key] = (reference, calls)
        if len(self._earlier) > 4 * MAX_NODES:
            self._earlier = {k: v for k, v in self._earlier.items() if v[0]() is not None}

    def carry(self, nodes: Iterable[Node]) -> None:
        """Functions that were recorded before this window began and belong to it, but for a batch put together."""
        for node in nodes:
            if node.call is None and (node.name != "stack" or node.outputs[0].requires_grad):
                self._add(self._node(node.function, node.name, node.args, node.kwargs, node.outputs, node.place))

    def _node(
        self,
        func: Any,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        outputs: tuple[Tensor, ...],
        where: CodeLine | None,
    ) -> Node:
        in_place = _is_in_place(name) or kwargs.get("out") is not None
        inputs = tuple(tensors_in(args, kwargs))
        sources = gradient = 0
        for tensor in inputs:
            mask, flowing = self.bits(tensor)
            sources |= mask
            gradient |= flowing
        # A leaf, as new_tensor(…, requires_grad=True) makes one, keeps the gradient to itself.
        if not outputs[0].requires_grad or (_is_leaf(outputs[0]) and not in_place):
            gradient = 0
        origins = tuple(self._origin.get(id(tensor)) for tensor in inputs)
        return Node(func, name, args, kwargs, inputs, origins, outputs, where, in_place, sources, gradient)

    def _outputs_of_networks(self) -> list[tuple[int, weakref.ref[Tensor], tuple[Call, ...]]]:
        found = []
        for node in self.nodes:
            if node.call is None and not node.sources:
                continue
            outputs = [t for t in node.outputs if not t.requires_grad]
            calls = (node.call,) if node.call is not None else self.networks(node.sources) if outputs else ()
            if calls:
                found += [(id(t), weakref.ref(t), calls) for t in outputs]
        return found

    def remember(self, tensors: Iterable[Tensor], call: Call) -> None:
        """Outputs of a network that was called while nothing was recorded."""
        for tensor in tensors:
            self._earlier[id(tensor)] = (weakref.ref(tensor), (call,))

    def outlives(self, module: nn.Module, classes: int) -> bool:
        """Whether something of as many columns that was computed from a network's outputs is still there."""
        for reference, calls in self._earlier.values():
            tensor = reference()
            if tensor is None or not tensor.is_floating_point() or not tensor.dim() or tensor.shape[-1] != classes:
                continue
            if any(call.module is module for call in calls):
                return True
        return False

    # Entering and leaving: only at the top of torch's stack of modes, so that a user's own modes keep their order.

    def enter(self) -> None:
        """Begin to see functions."""
        # What the mode's own __enter__ and __exit__ come down to: this is done several times in each step.
        if not self._entered:
            torch._C._push_on_torch_function_stack(self)
            self._entered = True

    def leave(self) -> bool:
        """Stop seeing functions; False where another mode was entered since, and it must be tried again."""
        if self._entered:
            count = torch._C._len_torch_function_stack()
            if not count or torch._C._get_function_stack_at(count - 1) is not self:
                return False
            torch._C._pop_torch_function_stack()
            self._entered = False
        return True

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if kwargs is None:
            kwargs = {}
        if tracing_state() is not None:
            return func(*args, **kwargs)
        if func in _SUMS_IN_PLACE and self.active and not self.is_loading and args[0].numel() == 1:
            return self._sum_in_place(func, args, kwargs)
        out = func(*args, **kwargs)
        if not self.active or (self.is_loading and not self._is_followed(args)):
            return out
        known = _functions.get(func)
        if known is None:
            known = _functions[func] = _describe(func)
        name, reads, kind = known
        seen = out
        if kind == "iterates":
            seen = tuple(out)
            out = iter(seen)
        try:
            if reads:
                self._note_read(args)
            if kind != "skipped" and (kind != "attribute" or isinstance(out, Tensor)):
                self.record(func, name, tuple(args), kwargs, seen)
        except Exception as error:
            if not self._failed(error):
                raise
        return out

    def _sum_in_place(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """``loss += term``: recorded as ``loss = before + term``, so that what the loss was before keeps its place."""
        with torch.no_grad():
            before = args[0].detach().clone().requires_grad_(args[0].requires_grad)
        out = func(*args, **kwargs)
        origin = self._origin.get(id(args[0]))
        if origin is not None:
            # It takes the place of what it was, whose number is another one now.
            made = self.nodes[origin[0]]
            made.outputs = (*made.outputs[: origin[1]], before, *made.outputs[origin[1] + 1 :])
            self._origin[id(before)] = origin
        function, name = _SUMS_IN_PLACE[func]
        self.record(function, name, (before, *args[1:]), kwargs, out)
        return out

    def _is_followed(self, args: Sequence[Any]) -> bool:
        """Whether the first tensor of some arguments was computed from networks' outputs, in this step or earlier."""
        given = args[0] if args else None
        if isinstance(given, list | tuple):
            given = given[0] if given else None
        if id(given) in self._origin:
            return True
        earlier = self._earlier.get(id(given))
        return earlier is not None and earlier[0]() is given

    def _note_read(self, args: Sequence[Any]) -> None:
        given = args[0] if args else None
        if isinstance(given, Tensor) and given.dim() == 0:
            origin = self._origin.get(id(given))
            if origin is not None:
                self.read.add(origin[0])
                if given.requires_grad:
                    self.looked_at = given

    def record(self, func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """Add one function call to the tape."""
        outputs = (out,) if isinstance(out, Tensor) else tuple(tensors_in(out)) if isinstance(out, _SEQUENCES) else ()
        if name == "__setitem__":
            outputs = (args[0],)
        if not outputs:
            if name in _ESCAPES and args and isinstance(args[0], Tensor) and args[0].dim() >= 2:
                self.escaped |= self.bits(args[0])[0]
            return
        if args and out is args[0] and name in _MAY_DO_NOTHING:
            return  # what was there already
        if name in _HAVE_MODES:
            self._note_mode(name, args, kwargs)
        node = self._node(func, name, args, kwargs, outputs, place(3))
        if name in _MULTIPLIES and outputs[0].dim() == 0:
            numbers = [each for each in args[:2] if isinstance(each, float) and 0 < each < 1 and each != 0.5]
            node.names = names_of(numbers[0]) if numbers else ()
            if any(isinstance(each, int | float) and each == 0 for each in args[:2]):
                frame = user_frame(2)
                node.truncated = truncated_weight(frame) if frame is not None else ""
        elif name in OF_CLASSES:
            chosen = self.chosen_classes(node)
            node.overwrites = overwritten_input(user_frame(2), chosen) if chosen is not None else None
        self._add(node)

    def _add(self, node: Node) -> None:
        index = len(self.nodes)
        self.nodes.append(node)
        for slot, tensor in enumerate(node.outputs):
            self._origin[id(tensor)] = (index, slot)
            self._bytes += tensor.numel() * tensor.element_size()
        if (len(self.nodes) > MAX_NODES or self._bytes > MAX_BYTES) and not self.open:
            self.clear()
            self.lost = True

    def bits(self, tensor: Tensor) -> tuple[int, int]:
        """The sources that a tensor was computed from, and of them those that its gradient reaches."""
        origin = self._origin.get(id(tensor))
        call = None
        if origin is not None:
            node = self.nodes[origin[0]]
            call = node.call
            if call is None:
                return node.sources, node.gradient if tensor.requires_grad else 0
        bit = self._bit.get(id(tensor), 0)
        if not bit:
            bit = self._bit[id(tensor)] = 1 << len(self.sources)
            self.sources.append(self._source(tensor) if call is None else Source("network", tensor, call))
        return bit, bit if tensor.requires_grad else 0

    def chosen_classes(self, node: Node) -> Tensor | None:
        """The class numbers that a loss reads, where they were computed from networks' outputs and no labels."""
        target = node.argument(1, "target")
        if not isinstance(target, Tensor) or target.is_floating_point() or target.dtype is torch.bool:
            return None
        mask = self.bits(target)[0]
        plain = [each for i, each in enumerate(self.sources) if mask >> i & 1 and each.kind == "constant"]
        if not self.networks(mask) or any(not each.earlier and not each.tensor.is_floating_point() for each in plain):
            return None
        return target

    def _source(self, tensor: Tensor) -> Source:
        inside = self._inside.get(id(tensor))
        earlier = self._earlier.get(id(tensor))
        if inside is not None and inside[0]() is tensor:
            self.hooked.add(inside[2])
            return Source("inside", tensor, inside[1], derived=id(tensor) in self._cut)
        if isinstance(tensor, nn.Parameter) or (tensor.requires_grad and _is_leaf(tensor)):
            return Source("parameter", tensor)
        if earlier is not None and earlier[0]() is tensor:
            return Source("constant", tensor, earlier=earlier[1])
        self.strays |= tensor.requires_grad
        return Source("inside" if tensor.requires_grad else "constant", tensor)

    def _note_mode(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        def given(position: int, key: str, default: Any) -> Any:
            return args[position] if len(args) > position else kwargs.get(key, default)

        if name in ("dropout", "alpha_dropout"):
            live = bool(given(2, "training", name == "dropout")) and given(1, "p", 0.5) > 0
            if given(1, "p", 0.5) == 0:
                return
        elif name == "batch_norm":
            # Where there are no running statistics, the batch's own are meant.
            if given(1, "running_mean", None) is None:
                return
            live = bool(given(5, "training", False))
        elif name == "scaled_dot_product_attention":
            live = given(4, "dropout_p", 0.0) > 0
            if not live:
                return
        else:
            rate, live = (args[5], bool(args[6])) if len(args) > 8 else (0.0, False)
            if not rate:
                return
        short = "batch norm" if name == "batch_norm" else "dropout"
        for call in self.open:
            (call.live if live else call.still).add(short)

    # Modules.

    def begin(self, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], label: str) -> Call:
        """A module is called."""
        call = Call(
            module,
            label,
            place(3),
            module.training,
            torch.is_grad_enabled(),
            len(self.nodes),
            tuple(tensors_in(args, kwargs)),
        )
        for tensor in call.inputs:
            sources, flowing = self.bits(tensor)
            call.sources |= sources
            call.flowing |= flowing
        call.first_source, call.start_bytes = len(self.sources), self._bytes
        self.open.append(call)
        return call

    def end(self, call: Call, out: Any, has_parameters: bool) -> bool:
        """A module has returned: it is one step of the tape (then true), or it is looked through."""
        while self.open and self.open.pop() is not call:
            pass
        call.outputs = tuple(tensors_in(out))
        opaque = has_parameters and bool(call.outputs) and not _is_composite(call)
        for parent in self.open[-1:]:
            parent.inside += call.inside
            parent.inside += [(weakref.ref(tensor), call.module) for tensor in call.outputs]
            if not opaque:
                parent.inner += call.inner
        if not opaque:
            return False
        given = {id(tensor) for tensor in call.inputs}
        for reference, giver in call.inside:
            tensor = reference()
            if tensor is not None and id(tensor) not in given:
                self._inside[id(tensor)] = (reference, call, giver)
        start = min(call.start, len(self.nodes))
        without_gradient = []
        for node in self.nodes[start:]:
            for tensor in node.outputs:
                if self._origin.get(id(tensor), (-1, 0))[0] >= start:
                    del self._origin[id(tensor)]
                    cut = node.call is None and not tensor.requires_grad and tensor.is_floating_point()
                    if cut and not any(tensor is each for each in node.inputs):
                        without_gradient.append(weakref.ref(tensor))
        del self.nodes[start:]
        if without_gradient:
            node = tensor = None  # type: ignore[assignment]
            self._keep_cut(call, without_gradient, given)
        call.inside = []
        self._bytes = min(self._bytes, call.start_bytes)
        for source in self.sources[call.first_source :]:
            self._bit.pop(id(source.tensor), None)
        del self.sources[call.first_source :]
        call.inner = []
        self._add(
            Node(
                call.module,
                "module",
                (),
                {},
                call.inputs,
                tuple(self._origin.get(id(t)) for t in call.inputs),
                call.outputs,
                call.place,
                False,
                0,
                0,
                call,
            )
        )
        if self.open:
            self.open[-1].inner.append(call)
        return True

    def _keep_cut(self, call: Call, made: Iterable[weakref.ref[Tensor]], given: Container[int]) -> None:
        """What functions inside a network made without a gradient, and somebody keeps: a hook's ``output.detach()``."""
        for reference in made:
            tensor = reference()
            if tensor is not None and id(tensor) not in given:
                self._inside[id(tensor)] = (reference, call, call.module)
                self._cut.add(id(tensor))
                for parent in self.open[-1:]:
                    parent.inside.append((reference, call.module))

    @property
    def calls(self) -> list[Call]:
        """The calls of networks in the window, in order."""
        return [node.call for node in self.nodes[self.first : self.last] if node.call is not None]

    def networks(self, sources: int) -> tuple[Call, ...]:
        """The module calls among sources."""
        if not sources:
            return ()
        return tuple(
            {
                id(call): call
                for i, source in enumerate(self.sources)
                if sources >> i & 1
                for call in ((source.call,) if source.call is not None else source.earlier)
            }.values()
        )

    def came_from_networks(self, tensors: Iterable[Tensor]) -> bool:
        """Whether some of these tensors were computed from outputs of networks."""
        return any(self.networks(self.bits(each)[0]) for each in tensors)

    def ancestors(self, tensor: Tensor) -> list[int]:
        """The nodes that a tensor was computed by, in order; module calls end the search."""
        origin = self._origin.get(id(tensor))
        if origin is None:
            return []
        seen, todo = set(), [origin[0]]
        while todo:
            index = todo.pop()
            if index in seen:
                continue
            seen.add(index)
            if self.nodes[index].call is None:
                todo += [each[0] for each in self.nodes[index].origins if each is not None]
        return sorted(seen)

    def is_output(self, tensor: Tensor) -> bool:
        """Whether a network gave a tensor."""
        found = self._origin.get(id(tensor))
        return found is not None and self.nodes[found[0]].call is not None

    def made_at(self, tensor: Tensor) -> tuple[int, int] | None:
        """The node that a tensor was computed by last, and which of its outputs it is."""
        return self._origin.get(id(tensor))

    def origin(self, tensor: Tensor) -> int | None:
        """The node that a tensor was computed by last."""
        found = self._origin.get(id(tensor))
        return found[0] if found is not None else None


def _is_composite(call: Call) -> bool:
    """Whether a module is looked through: it gives a loss, or it runs several networks side by side."""
    if any(tensor.dim() == 0 or (tensor.dim() == 1 and tensor.is_floating_point()) for tensor in call.outputs):
        return bool(call.inner)
    if len(call.inner) < 2:
        return False
    # Two networks, one recorded without gradients: a teacher and a student in one module.
    if call.grad and len({each.grad for each in call.inner}) > 1:
        return True
    given = {id(tensor) for tensor in call.inputs}
    returned = {id(tensor) for tensor in call.outputs}
    branches = [each for each in call.inner if any(id(t) in given for t in each.inputs)]
    return sum(any(id(t) in returned for t in each.outputs) for each in branches) > 1


@dataclass(eq=False)
class RecordedLoss:
    """A loss as a function of some of its sources, computed again from the tape.

    Attributes:
        value: what it was.
        nodes: its nodes, in order, with what each takes: a constant, an earlier node, or a source.
    """

    steps: list[tuple[Node, tuple[Any, ...], bool]]
    result: int
    sources: tuple[Tensor, ...]

    def __call__(self, *values: Tensor) -> Tensor:
        """The loss where its sources have other values; they may require gradients.

        Args:
            values: one for each of ``sources``, of their shapes.
        """
        made: list[tuple[Tensor, ...]] = []
        for node, takes, in_place in self.steps:
            given = [
                values[each[1]] if each[0] == "source" else made[each[1]][each[2]] if each[0] == "node" else each[1]
                for each in takes
            ]
            if in_place:
                given[0] = given[0].clone()
            iterator = iter(given)
            args, kwargs = _with_tensors(node.args, iterator), _with_tensors(node.kwargs, iterator)
            out = node.function(*args, **kwargs)
            if node.name == "__setitem__":
                out = args[0]
            made.append((out,) if isinstance(out, Tensor) else tuple(tensors_in(list(out))))
        return made[self.result][0]


def replay(tape: Tape, loss: Tensor, sources: Sequence[Tensor]) -> RecordedLoss | None:
    """A loss of the tape as a function of some of its sources; None where it does not depend on them.

    Constants are kept as they are now.
    """
    position = {id(tensor): i for i, tensor in enumerate(sources)}
    number: dict[int, int] = {}
    steps: list[tuple[Node, tuple[Any, ...], bool]] = []
    for index in tape.ancestors(loss):
        node = tape.nodes[index]
        if node.call is not None:
            continue
        takes: list[Any] = []
        for tensor, origin in zip(node.inputs, node.origins, strict=True):
            if origin is not None and origin[0] in number:
                takes.append(("node", number[origin[0]], origin[1]))
            elif id(tensor) in position:
                takes.append(("source", position[id(tensor)]))
            else:
                takes.append(("constant", tensor.detach()))
        if any(each[0] != "constant" for each in takes):
            number[index] = len(steps)
            bare = Node(
                node.function,
                node.name,
                _without_tensors(node.args),
                _without_tensors(node.kwargs),
                (),
                (),
                (),
                node.place,
                node.in_place,
                0,
                0,
            )
            steps.append((bare, tuple(takes), node.in_place))
    last = tape.origin(loss)
    if last is None or last not in number:
        return None
    return RecordedLoss(steps, number[last], tuple(tensor.detach().clone() for tensor in sources))


_HOLE = torch.empty(0)


def _without_tensors(value: Any) -> Any:
    """Arguments with a placeholder for each tensor, so that the tape's tensors are not kept."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Tensor):
        return _HOLE
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_without_tensors(each) for each in value))
    if isinstance(value, list | tuple):
        return type(value)([_without_tensors(each) for each in value])
    if isinstance(value, Mapping):
        return {key: _without_tensors(each) for key, each in value.items()}
    return value
