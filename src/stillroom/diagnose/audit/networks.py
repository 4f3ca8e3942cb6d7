"""The networks of a script that is watched: their names, what was loaded into them, which parameters learn."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stillroom.diagnose.audit.facts import row_prints, sample_rows
from stillroom.diagnose.audit.tape import Call, CodeLine, Source, tensors_in, user_frame
from stillroom.diagnose.checks.loop.record import InferenceCall, LeftOut, Loading, Network, Phase, Role

MAX_PRINTS, MAX_ASKED = 20_000, 400
# Of so many evaluations of a network the first rows are kept.
SAMPLES = 2
STOCHASTIC = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


class Networks:
    """Knows the modules that were run, and who of them learns.

    Args:
        teacher: modules that are said to teach.
        student: modules that are said to learn.
    """

    def __init__(self, teacher: Sequence[nn.Module] = (), student: Sequence[nn.Module] = ()) -> None:
        self._named = {"teacher": list(teacher), "student": list(student)}
        self._found: weakref.WeakKeyDictionary[nn.Module, Network] = weakref.WeakKeyDictionary()
        self._labels: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
        self._has_parameters: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
        self._serials: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
        self._drawn: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
        self._next_serial = itertools.count(1)
        self._loadings: list[tuple[weakref.ref[nn.Module], Loading]] = []
        # Parameters that an optimizer of this phase holds, that one stepped in an earlier phase, that were loaded.
        self.learners: dict[int, weakref.ref[Tensor]] = {}
        self.trained: dict[int, weakref.ref[Tensor]] = {}
        self._loaded: dict[int, weakref.ref[Tensor]] = {}
        # Parameters that a module was given for a call, by their names.
        self._given: weakref.WeakKeyDictionary[nn.Module, dict[str, Tensor]] = weakref.WeakKeyDictionary()
        self._copies: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # of what learns, made while it does
        self.asked: list[InferenceCall] = []  # networks that were run without gradients outside steps
        # Parameters and buffers of modules, listed anew now and then, and the share that learns, by step.
        self._parameters: weakref.WeakKeyDictionary[nn.Module, list[nn.Parameter]] = weakref.WeakKeyDictionary()
        self._buffers: weakref.WeakKeyDictionary[nn.Module, list[Tensor]] = weakref.WeakKeyDictionary()
        self._held: dict[int, float] = {}

    def begin_phase(self) -> None:
        """From here on other parameters learn."""
        self.trained |= self.learners
        self.learners = {}
        self._found.clear()
        self._parameters.clear()
        self._buffers.clear()

    def begin_step(self, learners: dict[int, weakref.ref[Tensor]], *, anew: bool) -> None:
        """A step is judged.

        Args:
            learners: the parameters that its optimizers hold.
            anew: whether modules are looked at anew: they may have got other parameters.
        """
        self.learners |= learners
        self._held.clear()
        if anew:
            self._parameters.clear()
            self._buffers.clear()

    def add(self, module: nn.Module) -> str:
        """The label of a module, found where it is called first."""
        if module not in self._labels:
            self._labels[module] = _label(module)
            self._has_parameters[module] = next(module.parameters(), None) is not None
            self._drawn[module] = all(map(_is_one_scale, module.modules()))
            if self._is_copy(module):
                self._copies.add(module)
        return self._labels[module]

    def _is_copy(self, module: nn.Module) -> bool:
        """Whether a module that is called first holds the weights, as they are now, of one that has learnt so far."""
        first = next((each for each in module.parameters() if each.dim() > 1), None) if self.learners else None
        if first is None or is_in(self.learners, first):
            return False
        return any(_are_equal(reference(), first) for reference in self.learners.values())

    def label(self, module: nn.Module) -> str:
        """The label of a module, or its class where it was not called on the tape."""
        return self._labels.get(module) or type(module).__name__

    def has_parameters(self, module: nn.Module) -> bool:
        """Whether a module that was met holds parameters."""
        return self._has_parameters[module]

    def note_loading(
        self, module: nn.Module, state_dict: Mapping[str, object], strict: bool, place: str | None
    ) -> None:
        """``load_state_dict`` was called."""
        own = set(module.state_dict())
        self._loaded |= {id(p): weakref.ref(p) for n, p in module.named_parameters() if n in state_dict}
        loading = Loading(
            place,
            strict,
            len(own),
            len(own & set(state_dict)),
            tuple(str(key) for key in state_dict if key not in own)[:20],
            tuple(sorted(own - set(state_dict)))[:200],
        )
        self._loadings.append((weakref.ref(module), loading))

    def of(self, module: nn.Module) -> Network:
        """What is known of a module."""
        found = self._found.get(module)
        if found is None:
            label = self._labels.get(module) or _label(module)
            own = {id(each) for each in module.modules()}
            parameters = list(module.parameters())
            found = Network(
                weakref.ref(module),
                label,
                any(is_in(self.trained, p) for p in parameters),
                [
                    loading
                    for reference, loading in reversed(self._loadings)
                    for other in [reference()]
                    if other is not None and (id(other) in own or any(module is each for each in other.modules()))
                ],
                sum(p.numel() for p in parameters),
                tuple(tuple(p.shape) for p in parameters),
                module not in self._copies
                and any(self.is_fresh(p) for p in [each for each in parameters if each.dim() > 1][:1]),
                self._serials.setdefault(module, next(self._next_serial)),
                self._drawn.get(module, True),
            )
            self._found[module] = found
        return found

    def side(self, module: nn.Module) -> Role:
        """Whose side a module was said to be on."""
        for role, modules in self._named.items():
            if any(module is each or any(module is inner for inner in each.modules()) for each in modules):
                return "teacher" if role == "teacher" else "student"
        return "none"

    def parameters(self, module: nn.Module) -> list[Any]:
        """A module's parameters, or those that it is given in their place."""
        found = self._parameters.get(module)
        if found is None:
            given = self._given.get(module, {})
            own: list[Any] = [p for name, p in module.named_parameters() if name not in given]
            found = self._parameters[module] = own + list(given.values())
        return found

    def note_functional(self, module: nn.Module, given: Mapping[str, Tensor]) -> None:
        """``torch.func.functional_call`` runs a module with tensors that are none of its own."""
        names = dict(module.named_parameters())
        leaves = {name: each for name, each in given.items() if name in names and each.is_leaf and each.requires_grad}
        known = self._given.get(module, {})
        if leaves and (leaves.keys() != known.keys() or any(known[name] is not each for name, each in leaves.items())):
            self._given[module] = leaves
            self._parameters.pop(module, None)
            self._held.clear()

    def buffers(self, module: nn.Module) -> list[Tensor]:
        """A module's buffers."""
        found = self._buffers.get(module)
        if found is None:
            found = self._buffers[module] = list(module.buffers())
        return found

    def held(self, module: nn.Module) -> float:
        """The share of a module's numbers that learn, of those that require a gradient."""
        share = self._held.get(id(module))
        if share is None:
            parameters = [p for p in self.parameters(module) if p.requires_grad]
            held = sum(p.numel() for p in parameters if id(p) in self.learners)
            share = self._held[id(module)] = held / max(1, sum(p.numel() for p in parameters))
        return share

    def held_parameters(self, call: Call) -> set[int]:
        """The parameters of a call's network that learn."""
        return {id(p) for p in self.parameters(call.module) if p.requires_grad and id(p) in self.learners}

    def learns(self, source: Source) -> bool:
        """Whether the student's side of a loss comes from a source."""
        if source.kind == "parameter":
            return id(source.tensor) in self.learners
        call = source.call
        if call is None:
            return source.kind == "inside" and source.tensor.requires_grad
        return source.tensor.requires_grad and self.held(call.module) > 0 and self.side(call.module) != "teacher"

    def is_cut(self, source: Source) -> bool:
        """Whether something of a network that learns was cut off from its gradient before it was given out."""
        call = source.call
        return (
            call is not None
            and call.grad
            and source.tensor.is_floating_point()
            and not source.tensor.requires_grad
            and self.held(call.module) > 0
            and self.side(call.module) != "teacher"
        )

    def left_out(self, call: Call, graded: dict[str, nn.Parameter], givers: Sequence[Call]) -> LeftOut | None:
        """Parameters that got a gradient and that no optimizer holds; ``givers`` made the call's input."""
        module = call.module
        missing = {n: p for n, p in graded.items() if p.requires_grad and id(p) not in self.learners}
        if not missing:
            return None
        network = self.of(module)
        role: Role = "student" if self.held(module) > 0 or givers else "teacher"
        every = dict(all_parameters(module)).values()
        share = sum(p.numel() for p in missing.values()) / max(1, sum(p.numel() for p in every))
        fresh = any(self.is_fresh(each) for each in missing.values())
        where = str(call.place) if call.place else None
        return LeftOut(network, tuple(missing), share, role, where, False, fresh)

    def frozen(self, call: Call) -> LeftOut | None:
        """Parameters of a network that learns which an optimizer holds and which require no gradient."""
        held = [p for p in self.parameters(call.module) if id(p) in self.learners]
        if not held or all(p.requires_grad for p in held):
            return None
        frozen = {n: p for n, p in call.module.named_parameters() if id(p) in self.learners and not p.requires_grad}
        share = sum(p.numel() for p in frozen.values()) / sum(p.numel() for p in self.parameters(call.module))
        fresh = all(self.is_fresh(each) for each in frozen.values())
        where = str(call.place) if call.place else None
        return LeftOut(self.of(call.module), tuple(frozen), share, "student", where, True, fresh)

    def is_fresh(self, parameter: Tensor) -> bool:
        """Whether a parameter was neither trained nor loaded, nor copied from one that was."""
        if is_in(self.trained, parameter) or is_in(self._loaded, parameter):
            return False
        others = (reference() for known in (self.trained, self._loaded) for reference in known.values())
        return not any(_are_equal(each, parameter) for each in others)

    def note_asked(
        self, module: nn.Module, args: Any, out: Any, phases: Sequence[Phase], place: CodeLine | None, call: Call | None
    ) -> None:
        """A module was run without gradients, or in evaluation mode: an evaluation, a teacher, answers to be stored.

        Args:
            module: the module.
            args: what it was given.
            out: what it gave.
            phases: the trainings so far.
            place: the user's line.
            call: what was seen of the call; None where it was not on the tape.
        """
        outputs = [each for each in tensors_in(out) if each.dim() >= 2 and each.is_floating_point()]
        inputs = [each for each in tensors_in(args) if each.dim() >= 1]
        if not outputs or not inputs or len(self.asked) >= MAX_ASKED:
            return
        graded = call.grad if call is not None else torch.is_grad_enabled()
        if graded:
            live: frozenset[str] = frozenset()  # parts of it may be trained by it
        elif call is not None:
            live = frozenset(call.live)
        else:
            live = frozenset(
                "dropout" if isinstance(each, nn.modules.dropout._DropoutNd) else "batch norm"
                for each in module.modules()
                if isinstance(each, STOCHASTIC) and each.training and getattr(each, "p", 1.0) != 0
            )
        network = self.of(module)
        last = self.asked[-1] if self.asked else None
        during = phases[-1].made if phases else 0
        prints = row_prints(inputs[0]) if inputs[0].dim() >= 2 else []
        if last is not None and last.network is network and last.during == during and last.live == live:
            last.rows += inputs[0].shape[0]
            if len(last.prints) < MAX_PRINTS:
                last.prints.update(prints)
            return
        where = str(place) if place else None
        rows, classes = inputs[0].shape[0], outputs[0].shape[-1]
        known = sum(one.network.serial == network.serial and one.inputs is not None for one in self.asked)
        kept = sample_rows(inputs[:1], {}) if known < SAMPLES and inputs[0].is_floating_point() else None
        self.asked.append(
            InferenceCall(network, where, rows, classes, live, set(prints), False, kept, during, len(phases))
        )


def _is_one_scale(module: nn.Module) -> bool:
    """Whether a normalisation layer scales all its channels alike, as none does that was trained; True of others."""
    weight = getattr(module, "weight", None) if "Norm" in type(module).__name__ else None
    if not isinstance(weight, Tensor) or weight.is_meta or weight.dim() != 1 or not len(weight):
        return True
    return bool((weight == weight[0]).all())


def _are_equal(one: Tensor | None, other: Tensor) -> bool:
    """Whether a parameter that may be gone holds another's numbers."""
    if one is None or (one.shape, one.device, one.dtype) != (other.shape, other.device, other.dtype):
        return False
    return torch.equal(one, other)


def _label(module: nn.Module) -> str:
    """A module's class, and the name of the variable that holds it where it is called."""
    name = type(module).__name__
    frame = user_frame(3)
    for _ in range(3):
        if frame is None:
            break
        for key, value in frame.f_locals.items():
            if value is module and key != "self":
                return f"{key} ({name})"
        owner = frame.f_locals.get("self")
        if owner is not None and hasattr(owner, "__dict__"):
            for key, value in [*vars(owner).items(), *(vars(owner).get("_modules") or {}).items()]:
                if value is module:
                    return f"self.{key} ({name})"
        frame = frame.f_back
    return name


def all_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """A module's parameters, and those that lie in plain lists and dictionaries of it, which no optimizer is given."""
    yield from module.named_parameters()
    known = set(module.modules()) | set(module.parameters())
    for prefix, each in module.named_modules():
        for name, value in vars(each).items():
            if name.startswith("_") or not isinstance(value, list | tuple | dict):
                continue
            for key, hidden in value.items() if isinstance(value, dict) else enumerate(value):
                place = ".".join(filter(None, (prefix, name, str(key))))
                if isinstance(hidden, nn.Parameter) and hidden not in known:
                    yield place, hidden
                elif isinstance(hidden, nn.Module) and hidden not in known:
                    yield from ((f"{place}.{inner}", parameter) for inner, parameter in hidden.named_parameters())


def is_in(known: Mapping[int, weakref.ref[Tensor]], tensor: Tensor) -> bool:
    """Whether a tensor is among those that are referred to by their identity."""
    reference = known.get(id(tensor))
    return reference is not None and reference() is tensor
