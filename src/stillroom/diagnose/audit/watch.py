"""Watches a training loop that is not ours: what is patched in torch, which steps are seen, where a training begins."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from stillroom.diagnose.audit import facts
from stillroom.diagnose.audit.networks import STOCHASTIC, Networks
from stillroom.diagnose.audit.schedules import LATER, Schedules, rate
from stillroom.diagnose.audit.source import counted_loops, only_steps
from stillroom.diagnose.audit.steps import StepReader
from stillroom.diagnose.audit.tape import (
    Call,
    CodeLine,
    Tape,
    captured_by,
    is_user,
    line_of,
    place,
    tensors_in,
    tracing_state,
    user_frame,
)
from stillroom.diagnose.audit.updates import Follower, Update
from stillroom.diagnose.audit.window import Familiar, Requested, Window, has_gradient, holds_gradients
from stillroom.diagnose.checks.loop.record import InferenceCall, LoopCount, Phase, Schedule, Step

_INHERITED: Any = object()  # in place of what a class has from its base alone
_optimizers = sys.modules["torch.optim.optimizer"]
_loaders = sys.modules["torch.utils.data.dataloader"]
# Reads attributes of tensors past all modes: through the tape, each read would be a call in Python.
_past_modes = torch._C.DisableTorchFunction
_clip = sys.modules["torch.nn.utils.clip_grad"]
_stateless = sys.modules["torch.nn.utils.stateless"]
_transforms = sys.modules["torch._functorch.apis"]
# The first steps of a phase that are watched one after another, from where a teacher is heard, and where none is; a
# loss of a phase is looked at again after LATER steps.
FIRST, FIRST_ALONE = 12, 4
MAX_PHASES, MAX_WAKES, MAX_EPOCHS = 8, 24, 8
# Where something may still come after the watched steps, so many steps are watched, and with ``--stop`` for so long.
MAX_AWAITED, AWAITED_SECONDS = 200, 120.0
# How many steps of a phase the change of the parameters is measured in.
MAX_UPDATES = 4
# Two optimizers that step in turns do so within so many steps.
IN_TURNS = 8
# Modules that take a faster path unless a mode is entered: nothing is seen inside them.
_FAST_PATHS = (nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerEncoderLayer)
# A network that was seen whole in so many steps is run past the tape from then on, as long as it is run in the same
# way; so often is it seen whole again, because something appears that no step showed before.
WHOLE, AGAIN = 2, 2


class StopScript(SystemExit):
    """Raised in the user's script where ``--stop`` ends it."""


class _Quiet:
    """For code of the audit: nothing in it is recorded, and an error in it ends the watching, not the script."""

    # No @contextmanager: it is entered twice for each call of a module, and may be entered inside itself.
    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __enter__(self) -> None:
        self._watch._tape.active = False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool:
        watch = self._watch
        failed = isinstance(error, Exception) and watch._failed(error)
        watch._tape.active = watch._deep and not watch._pauses
        return failed


class _Paused:
    """For code that the tape is not to be entered in; may be entered inside itself."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __enter__(self) -> None:
        watch = self._watch
        watch._pauses += 1
        watch._tape.active = False
        watch._tape.leave()

    def __exit__(self, *_: object) -> None:
        watch = self._watch
        watch._pauses -= 1
        if watch._deep and not watch._pauses:
            watch._tape.enter()
            watch._tape.active = True


class Watch:
    """Sees a training loop from :meth:`start` to :meth:`finish`; changes nothing of it.

    Args:
        steps: how many steps of each phase are watched, the first and some later ones.
        stop: whether the script is stopped when they are.
        watched: is called when a phase with a teacher has been watched.
        teacher: modules that teach; found where none is given.
        student: modules that learn; found where none is given.
    """

    def __init__(
        self,
        steps: int = 30,
        *,
        stop: bool = False,
        watched: Callable[[], None] | None = None,
        teacher: Sequence[nn.Module] = (),
        student: Sequence[nn.Module] = (),
        optimizers: Sequence[torch.optim.Optimizer] = (),
    ) -> None:
        self.steps, self.stop = steps, stop
        self.phases: list[Phase] = []
        self.errors: list[str] = []
        self.seen_optimizer = bool(optimizers)
        self.seen_backward = 0
        self.failure = ""  # the exception that ended the script
        self.stopped = False  # whether ``stop`` ended it
        self.whole_script = True
        self.idle: list[str | None] = []  # lines of steps that no ``backward`` was made for
        self._awaited_since: float | None = None
        self._watched = watched
        self._tape = Tape(self._failed)
        self._networks = Networks(teacher, student)
        self._reader = StepReader(self._tape, self._networks)
        self._schedules = Schedules()
        self._window = Window()
        self._quiet = _Quiet(self)
        self._pause = _Paused(self)
        self._on = self._deep = False
        self._depth = self._pauses = self._wakes = 0
        self._thread = threading.get_ident()
        self._process = os.getpid()
        self._optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet(optimizers)
        self._step_lines: dict[str, set[int]] = {}
        self._files: set[str] = set()
        self._patches: list[tuple[Any, str, Any]] = []
        self._hooks: list[Any] = []
        # Optimizers that stepped in this phase, in the one before it, and that made a later step be watched.
        self._phase_optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._earlier_optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._joining: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._complete: set[int] = set()
        self._follower: Follower | None = None
        self._familiar: weakref.WeakKeyDictionary[nn.Module, Familiar] = weakref.WeakKeyDictionary()
        self._again = AGAIN
        self._woken: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
        # How many steps all optimizers had made when ``train()`` was called on a module last.
        self._switched_on: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
        self._steps_made, self._switching = 0, False
        # What the last DataLoader that was iterated over gave, and its length: alive while its loop runs.
        self._batches: tuple[weakref.ref[Any], int] | None = None
        # Optimizers whose parameters held gradients when the first backward of a step began.
        self._left_over: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._marks: dict[int, list[tuple[int, int]]] = {}  # of the optimizers' gradients before the last backward
        self._searching = False  # whether a closure is evaluated inside a step, which may do so several times

    # Start, stop, and what is patched in between.

    def start(self, *, deep: bool = False) -> None:
        """Patch torch; nothing of the user's is touched."""
        global _current
        if _current is not None:
            raise RuntimeError("an audit is running already")
        _current = self
        self._on = True
        # Warnings of torch that come through the tape would name its line; later steps name the user's.
        warnings.filterwarnings("ignore", module=r"stillroom\.diagnose\.audit\.tape$")
        self._patch(nn.Module, "__call__", self._module_call)
        self._patch(torch.autograd, "backward", self._backward_call)
        self._patch(torch.autograd, "grad", self._gradient_call)
        self._patch(torch.autograd.Variable, "__new__", self._variable)
        self._patch(torch.autograd.Function, "apply", self._function_apply)
        self._patch(torch.optim.Optimizer, "__init__", self._optimizer_init)
        self._patch(torch.optim.Optimizer, "zero_grad", self._noting("zero_grad"))
        self._patch(nn.Module, "zero_grad", self._noting("zero_grad"))
        self._patch(nn.Module, "load_state_dict", self._load_state_dict)
        self._patch(nn.Module, "train", self._train)
        self._patch(_clip, "_clip_grads_with_norm_", self._noting("clip"))
        self._patch(torch.nn.utils, "clip_grad_value_", self._noting("clip"))
        scaler = torch.amp.grad_scaler.GradScaler
        for name in ("scale", "step", "update", "unscale_"):
            self._patch(scaler, name, self._noting(f"scaler.{name}", pause=True))
        schedulers = torch.optim.lr_scheduler
        self._patch(schedulers.LRScheduler, "__init__", self._scheduler_init)
        self._patch(schedulers.ReduceLROnPlateau, "__init__", self._scheduler_init)
        for cls in (schedulers.LRScheduler, schedulers.SequentialLR, schedulers.ChainedScheduler):
            self._patch(cls, "step", self._scheduler_step)
        self._patch(DataLoader, "__iter__", self._loader_iter)
        self._patch(_loaders._BaseDataLoaderIter, "__next__", self._loader_next)
        self._patch(torch, "compile", self._compile)
        self._patch(_transforms, "vmap_impl", self._vmap)
        self._patch(_stateless, "_functional_call", self._functional_call)
        self._hooks = [
            _optimizers.register_optimizer_step_pre_hook(self._before_step),
            _optimizers.register_optimizer_step_post_hook(self._after_step),
        ]
        if deep:
            self.whole_script = False
            self._go_deep()

    def finish(self, *, ended: bool = True) -> None:
        """Undo all patches; judge what the last window held."""
        global _current
        if _current is not self:
            return
        with self._quiet:
            if self._deep and self._window.backwards:
                self._close_window()
            for phase in self.phases[-1:]:
                phase.finished = ended
        self._on = self._deep = False
        self._tape.active = False
        self._tape.leave()
        self._tape.clear()
        for hook in self._hooks:
            hook.remove()
        for owner, name, original in reversed(self._patches):
            if original is _INHERITED:
                delattr(owner, name)
            else:
                setattr(owner, name, original)
        self._patches.clear()
        _current = None

    def note_failure(self, error: BaseException) -> None:
        """An exception ended the script."""
        lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
        named = (line for line in lines if type(error).__name__ in line)
        self.failure = next(named, lines[-1])[:160]

    @property
    def schedules(self) -> list[Schedule]:
        """The learning-rate schedulers that were made."""
        never = all(only_steps(file, frozenset(self._step_lines.get(file, ()))) for file in self._files)
        return self._schedules.facts(never and bool(self._step_lines))

    @property
    def asked(self) -> list[InferenceCall]:
        """Networks that were run without gradients outside steps."""
        return self._networks.asked

    def disown(self) -> None:
        """In a process that was forked off: see nothing more."""
        self._on = self._deep = False
        self._tape.active = False

    def _patch(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        before = owner.__dict__.get(name, _INHERITED)
        self._patches.append((owner, name, before))
        original = getattr(owner, name) if before is _INHERITED else before
        made = make(original)
        for attribute in ("__name__", "__qualname__", "__module__", "__doc__", "__wrapped__"):
            with suppress(AttributeError, TypeError):
                setattr(made, attribute, getattr(original, attribute) if attribute != "__wrapped__" else original)
        setattr(owner, name, made)

    def _paused(self) -> _Paused:
        """See nothing in a block, and be nowhere in torch's stack of modes."""
        return self._pause

    def _mine(self) -> bool:
        return self._on and threading.get_ident() == self._thread

    def _go_deep(self) -> None:
        if not self._deep:
            self._deep = True
            self._tape.clear()
            self._window = Window()
            if not self._pauses:
                self._tape.enter()
                self._tape.active = True

    def _go_light(self) -> None:
        self._deep = False
        if self._follower is not None:
            self._follower.forget()
        self._tape.active = False
        self._tape.leave()
        self._tape.clear()

    def _failed(self, error: Exception) -> bool:
        """Take the watch out after an error of its own; False where that is to be seen, by its developers."""
        if os.environ.get("STILLROOM_AUDIT_DEBUG"):
            return False
        self.errors.append(f"{type(error).__name__}: {error}")
        self._on = self._deep = self._tape.active = False
        return True

    # Modules.

    def _module_call(self, original: Any) -> Any:
        watch = self

        def __call__(module: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: N807 - it takes this one's place
            if not watch._on or threading.get_ident() != watch._thread or tracing_state() is not None:
                return original(module, *args, **kwargs)
            if torch._C._functorch.maybe_current_level() is not None:
                # Under vmap a tensor stands for many, and what comes out of it is another one: nothing can be followed.
                with watch._paused():
                    return original(module, *args, **kwargs)
            if watch._deep and watch._tape.active:
                if not watch._tape.is_loading:
                    return watch._deep_call(original, module, args, kwargs)
                if watch._is_network(module):
                    watch._tape.is_loading = False
                    try:
                        return watch._deep_call(original, module, args, kwargs)
                    finally:
                        watch._tape.is_loading = True
            if watch._depth:
                return original(module, *args, **kwargs)
            watch._depth = 1
            try:
                out = original(module, *args, **kwargs)
            finally:
                watch._depth = 0
            if not torch.is_grad_enabled() or not module.training:
                with watch._quiet:
                    if id(module) not in watch._reader.teachers:
                        watch._networks.note_asked(module, args, out, watch.phases, place(3), None)
                    if not torch.is_grad_enabled():
                        watch._wake(module, args, out)
            return out

        return __call__

    def _are_given(self, args: Any, kwargs: Any) -> bool:
        """Whether tensors among arguments came out of networks in this window."""
        with _past_modes():
            made = (each for each in tensors_in(args, kwargs) if self._tape.origin(each) is not None)
            return self._tape.came_from_networks(made)

    def _is_network(self, module: nn.Module) -> bool:
        self._networks.add(module)
        return self._networks.has_parameters(module)

    def _deep_call(self, original: Any, module: nn.Module, args: Any, kwargs: Any) -> Any:
        tape = self._tape
        call = None
        with self._quiet:
            if not tape.open:
                if self._window.closing:
                    # A loss of answers that were given before the step: several networks, each with its own backward.
                    self._close_window(keep_tape=self._are_given(args, kwargs))
                elif tape.looked_at is not None:
                    self._note_skipped()
            if self._deep:
                label = self._networks.add(module)
                with _past_modes():
                    call = tape.begin(module, args, kwargs, label)
        if call is None:
            return module(*args, **kwargs)
        compiled = _is_compiled(module)
        opaque = compiled or isinstance(module, _FAST_PATHS)
        familiar = self._familiar.get(module)
        way = familiar.way(args, kwargs) if familiar is not None else None
        known = familiar.runs.get(way) if familiar is not None else None
        passed = known is not None and known[0] >= WHOLE
        escaped = tape.escaped
        try:
            if compiled:
                nn.Module.__call__, ours = self._patches[0][2], nn.Module.__call__  # type: ignore[method-assign]
                try:
                    with self._paused():
                        out = original(module, *args, **kwargs)
                finally:
                    nn.Module.__call__ = ours  # type: ignore[method-assign]
            elif passed:
                with self._paused():
                    self._depth += 1
                    try:
                        out = original(module, *args, **kwargs)
                    finally:
                        self._depth -= 1
            elif opaque:
                with self._paused():
                    out = original(module, *args, **kwargs)
            else:
                out = original(module, *args, **kwargs)
        except BaseException:
            while tape.open and tape.open.pop() is not call:
                pass
            raise
        with self._quiet:
            if passed:
                assert known is not None
                call.live, call.still = known[1:]
                self._window.passed = True
            elif opaque:
                for each in module.modules():
                    if isinstance(each, STOCHASTIC):
                        short = "dropout" if isinstance(each, nn.modules.dropout._DropoutNd) else "batch norm"
                        (call.live if each.training else call.still).add(short)
            with _past_modes():
                single = tape.end(call, out, self._networks.has_parameters(module))
            if passed and not single:
                # It gives a loss this time, and what is inside was not seen.
                del self._familiar[module]
                self._window.partial = True
            elif single and not opaque and not passed and tape.escaped == escaped:
                familiar = familiar or Familiar(tuple(module.modules()))
                self._window.whole[module] = familiar, familiar.way(args, kwargs) if way is None else way, call
        return out

    def _note_whole(self) -> None:
        """What a step saw whole need not be seen so again, unless a part of it was used outside."""
        for module, (familiar, way, call) in self._window.whole.items():
            if not any(each in self._tape.hooked for each in familiar.parts):
                self._familiar[module] = familiar
                count, live, still = familiar.runs.get(way, (0, set(), set()))
                familiar.runs[way] = count + 1, live | call.live, still | call.still

    def _wake(self, module: nn.Module, args: Any, out: Any) -> None:
        """Where no teacher was heard yet, a network that is run without gradients may be one: follow what it gives."""
        phase = self.phases[-1] if self.phases else None
        woken = self._woken.get(module, 0)
        if phase is None or phase.distils or self._wakes >= MAX_WAKES or woken >= 4:
            return
        self._wakes += 1
        self._woken[module] = woken + 1
        call = Call(module, self._networks.label(module), place(4), module.training, False, 0, ())
        self._tape.remember(tensors_in(out), call)
        self._go_deep()
        self._window.partial = True

    # Backward, steps, schedules.

    def _backward_call(self, original: Any) -> Any:
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._mine():
                return original(tensors, *args, **kwargs)
            self.seen_backward += 1
            if not self._deep:
                return original(tensors, *args, **kwargs)
            with self._paused():
                with self._quiet:
                    self._before_backward(tensors)
                out = original(tensors, *args, **kwargs)
                with self._quiet:
                    self._after_backward()
            return out

        return backward

    def _before_backward(self, tensors: Any) -> None:
        names = self._window.names
        skipped = bool(self._window.backwards) and "zero_grad" in names[_last(names, "backward") :]
        # Another optimizer's gradients were cleared, and those of the loss before wait for a step of theirs.
        skipped = skipped and not (self._window.fresh and self._window.cleared.isdisjoint(self._window.fresh))
        if self._window.closing or skipped:
            # Where the gradients were cleared and no optimizer stepped, a step was skipped.
            self._window.gradients |= {"searched"} if skipped and self._searching else set()
            self._close_window(keep_tape=True)
        where = place(4)
        text = str(where) if where else None
        self._tape.looked_at = None
        if "backward" not in self._window.names:
            held = [each for each in self._phase_optimizers if has_gradient(each)]
            self._left_over = weakref.WeakSet(held)
        self._window.cleared.clear()
        self._marks = self._marks_of_gradients()
        self._window.events.append(("backward", text))
        for loss in tensors_in(tensors if isinstance(tensors, list | tuple) else (tensors,)):
            if loss.numel() != 1:
                continue
            self._window.backwards.append((self._raw(loss, text), loss.item(), True))
        self._window.ends = len(self._tape.nodes)

    def _gradient_call(self, original: Any) -> Any:
        def grad(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if self._mine() and self._deep:
                with self._quiet:
                    self._note_requested(outputs, inputs)
            return original(outputs, inputs, *args, **kwargs)

        return grad

    def _note_requested(self, outputs: Any, inputs: Any) -> None:
        """A loss's gradients in what an optimizer trains: a backward pass, where the script hands them to a step."""
        given, asked = (tensors_in(each if isinstance(each, list | tuple) else (each,)) for each in (outputs, inputs))
        loss = given[0] if len(given) == 1 else None
        trained = {id(p) for each in self._optimizers for group in each.param_groups for p in group["params"]}
        if loss is None or loss.numel() != 1 or not asked or not trained.issuperset(map(id, asked)):
            return
        if self._window.requested and self._window.requested[-1].raw.loss is loss:
            return  # torch hands the call on through the function mode, and it comes by twice
        if self._window.closing:
            self._close_window(keep_tape=True)
        where = place(4)
        raw = self._raw(loss, str(where) if where else None)
        self._window.requested.append(Requested(raw, loss.item(), frozenset(map(id, asked)), len(self._tape.nodes)))

    def _raw(self, loss: Tensor, where: str | None) -> facts.Raw:
        return facts.Raw(loss, where, self._tape.ancestors(loss), *self._tape.bits(loss))

    def _note_skipped(self) -> None:
        """The script looked at a loss, and the next step begins: one that is not finite was left out."""
        loss, self._tape.looked_at = self._tape.looked_at, None
        if loss is not None and not bool(torch.isfinite(loss.detach())) and not self._window.backwards:
            self._before_backward(loss)
            self._close_window()

    def _marks_of_gradients(self) -> dict[int, list[tuple[int, int]]]:
        """What changes when a backward pass gives an optimizer's parameters a gradient; nothing where there is one."""
        if len(self._optimizers) < 2:
            return {}
        marks = {}
        for optimizer in self._optimizers:
            given = (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
            marks[id(optimizer)] = [(id(gradient), gradient._version) for gradient in islice(given, 8)]
        return marks

    def _after_backward(self) -> None:
        marks = self._marks_of_gradients()
        self._window.fresh |= {each for each, mark in marks.items() if mark != self._marks.get(each)}
        if not self._window.backwards or not (self._is_full() or self._is_first()):
            return
        raw, value, _ = self._window.backwards[-1]
        seen: set[int] = set()
        gradients = []
        with _past_modes():
            for call in self._tape.calls:
                if id(call.module) not in seen:
                    seen.add(id(call.module))
                    gradients += [p.grad for p in self._networks.parameters(call.module) if p.grad is not None]
        finite = True
        if gradients and value is not None:
            finite = _are_finite([g for g in gradients if not g.is_sparse])
        self._window.backwards[-1] = (raw, value, finite)

    def _optimizer_init(self, original: Any) -> Any:
        def __init__(optimizer: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it takes this one's place
            original(optimizer, *args, **kwargs)
            if self._mine():
                self.seen_optimizer = True
                with self._quiet:
                    self._optimizers.add(optimizer)
                    if len(self.phases) < MAX_PHASES:
                        self._go_deep()

        return __init__

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if not self._mine():
            return
        self._optimizers.add(optimizer)
        self.seen_optimizer = True
        if not self._deep:
            return
        closure = self._searching = len(args) > 1 or kwargs.get("closure") is not None
        with self._quiet:
            if closure and self._window.closing:
                self._close_window()  # the closure computes the next step
            if not self._deep:
                return
            if not closure and not self._window.backwards and self._window.take_requested(optimizer):
                self.seen_backward += 1
            names = self._window.names
            self._note_step_line()
            self._window.optimizers.append(optimizer)
            if not closure:
                if optimizer in self._left_over:
                    self._window.gradients.add("left_over")
                if "backward" in names and _last(names, "zero_grad") > _last(names, "backward"):
                    self._window.gradients |= set() if has_gradient(optimizer) else {"cleared"}
                if "scaler.scale" in names and not {"scaler.step", "scaler.unscale_"} & set(names):
                    self._window.gradients.add("scaled")
            phase = self.phases[-1] if self.phases else None
            if not closure:
                with _past_modes():
                    if len(self._window.optimizers) == 1:
                        if self._is_full(optimizer):
                            self._window.note_gradients(self._tape.calls)
                        if self._follower is not None:
                            self._window.averaging = self._follower.measure()
                    if phase is None or phase.extra.get("updates", 0) < MAX_UPDATES:
                        self._window.update = Update.of(optimizer)
                self._pauses += 1
                self._window.stepping = True
                self._tape.leave()

    def _note_step_line(self, depth: int = 4) -> None:
        """The user's line that makes a step, and the loops that it stands in."""
        frame = user_frame(depth)
        self._window.events.append(("step", None))
        if frame is None:
            return
        where = line_of(frame)
        self._window.events[-1] = ("step", str(where))
        self._step_lines.setdefault(where.file, set()).add(where.line)
        self._window.loops = counted_loops(frame)
        while frame is not None:
            file = frame.f_code.co_filename
            if file not in self._files and is_user(file):
                self._files.add(file)
            frame = frame.f_back

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if not self._mine():
            return
        if self._searching and self._deep and not self._window.optimizers:
            self._window.gradients.add("searched")  # the last evaluation of a search
        self._searching = False
        self._schedules.note_step(optimizer)
        self._steps_made += 1
        if self._window.stepping:
            self._window.stepping = False
            self._pauses -= 1
        elif self._deep and len(self._window.optimizers) == 1 and self._is_full(optimizer):
            # A closure made the gradients inside the step.
            with self._quiet, _past_modes():
                self._window.note_gradients(self._tape.calls)
        if self._deep:
            with self._quiet, _past_modes():
                if self._window.update is not None:
                    self._window.changed, self._window.decay = self._window.update.measure(), self._window.update.decay
                    self._window.update = None
                if self._follower is not None:
                    self._follower.mark()
            if not self._pauses:
                self._tape.enter()
                self._tape.active = True
            self._window.closing = True
            self._window.tail = len(self._tape.nodes)
            return
        phase = self.phases[-1] if self.phases else None
        if phase is None:
            return
        joins = optimizer not in self._phase_optimizers and optimizer not in self._joining
        if optimizer in self._phase_optimizers:
            phase.made += 1
        with self._quiet:
            if joins and len(self.phases) < MAX_PHASES:
                # One that did not step before: another training may begin with it.
                self._joining.add(optimizer)
                self._go_deep()
            elif phase.number not in self._complete and self._wants(phase) and self._is_open(phase):
                self._go_deep()
        if self.stop and phase.number in self._complete and phase.distils:
            self.stopped = True
            raise StopScript(0)

    def _is_full(self, optimizer: torch.optim.Optimizer | None = None) -> bool:
        """Whether this step is described in full: another training may begin with a new optimizer's."""
        is_new = optimizer is not None and optimizer not in self._phase_optimizers
        return is_new or not self.phases or self._reader.is_full(len(self.phases[-1].steps))

    def _is_first(self) -> bool:
        """Whether a network has gradients now that no optimizer of the training so far holds: another one begins."""
        calls = (call for call in self._tape.calls if call.grad)
        parameters = (p for call in calls for p in self._networks.parameters(call.module)[:1] if p.grad is not None)
        own = next(parameters, None)
        groups = (group for optimizer in self._phase_optimizers for group in optimizer.param_groups)
        return own is not None and not any(own is each for group in groups for each in group["params"])

    def _is_open(self, phase: Phase) -> bool:
        """Whether some later step of a phase may be watched."""
        return phase.number not in self._complete and (len(phase.steps) < self.steps or self._awaits(phase))

    def _awaits(self, phase: Phase) -> bool:
        """Whether a phase is watched on, a step now and then, as what it lacks may still come."""
        if not self._lacks(phase) or len(phase.steps) >= MAX_AWAITED:
            return False
        self._awaited_since = self._awaited_since or time.monotonic()
        return not self.stop or time.monotonic() - self._awaited_since < AWAITED_SECONDS

    def _wants(self, phase: Phase) -> bool:
        """Whether the next step of a phase is to be watched."""
        since = phase.extra.get("distils_since")
        first = since + FIRST if since is not None else FIRST_ALONE
        if phase.made < first or phase.made in LATER or self._epoch_begun(phase):
            return True
        return phase.made % max(1, phase.made // 8) == 0 and self._lacks(phase)

    def _lacks(self, phase: Phase) -> bool:
        """Whether what a verdict needs may still come."""
        return phase.awaits or self._schedules.awaits

    def _epoch_begun(self, phase: Phase) -> bool:
        begun = phase.extra.pop("begun", 0)
        return bool(begun) and phase.extra.get("epochs_watched", 0) < MAX_EPOCHS

    def _noting(self, name: str, pause: bool = False) -> Callable[[Any], Any]:
        def make(original: Any) -> Any:
            def noting(*args: Any, **kwargs: Any) -> Any:
                if not self._mine():
                    return original(*args, **kwargs)
                if name == "scaler.step":
                    for phase in self.phases[-1:]:
                        phase.scaler_steps += 1
                if self._deep:
                    where = place(2)
                    self._window.events.append((name, str(where) if where else None))
                    if name == "zero_grad":
                        with self._quiet:
                            self._note_cleared(args[0])
                    if name == "clip" and args and isinstance(args[0], list):
                        with self._quiet:
                            self._window.note_clipped(args[0], self._networks.learners)
                    if pause:
                        before = len(self._window.optimizers)
                        out = original(*args, **kwargs)
                        if name == "scaler.step" and len(self._window.optimizers) == before:
                            self._window.closing = True
                            for phase in self.phases[-1:]:
                                phase.skipped_by_scaler += 1
                        return out
                    if self._pauses:
                        return original(*args, **kwargs)
                    # What it does to gradients is no part of a loss.
                    with self._paused():
                        return original(*args, **kwargs)
                return original(*args, **kwargs)

            return noting

        return make

    def _note_cleared(self, owner: Any) -> None:
        """The gradients of an optimizer or a module are cleared."""
        cleared = [owner]
        if isinstance(owner, nn.Module):
            own = {id(p) for p in owner.parameters()}
            groups = [(each, group) for each in self._optimizers for group in each.param_groups]
            cleared = [each for each, group in groups if any(id(p) in own for p in group["params"])]
        for each in cleared:
            self._left_over.discard(each)
            self._window.cleared.add(id(each))

    def _scheduler_init(self, original: Any) -> Any:
        def __init__(scheduler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            if self._mine():
                with self._quiet:
                    for cls in type(scheduler).__mro__:
                        # Some schedules have a step() of their own.
                        if "step" in vars(cls) and not any(each[:2] == (cls, "step") for each in self._patches):
                            self._patch(cls, "step", self._scheduler_step)
                    self._schedules.begin(scheduler, optimizer)
            original(scheduler, optimizer, *args, **kwargs)
            if self._mine():
                with self._quiet:
                    self._schedules.end(scheduler)
                    frame = user_frame(2)
                    if frame is not None:
                        self._files.add(frame.f_code.co_filename)

        return __init__

    def _scheduler_step(self, original: Any) -> Any:
        def step(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._mine() or self._schedules.is_stepping(scheduler):
                return original(scheduler, *args, **kwargs)
            with _past_modes():
                before = self._schedules.begin_step(scheduler, args[0] if args else kwargs.get("metrics"))
            try:
                return original(scheduler, *args, **kwargs)
            finally:
                self._schedules.end_step(before)

        return step

    def _loader_iter(self, original: Any) -> Any:
        def __iter__(loader: Any) -> Any:  # noqa: N807 - it takes this one's place
            if self._mine() and self.phases:
                phase = self.phases[-1]
                with suppress(TypeError):
                    phase.loader_length = max(len(loader), phase.loader_length or 0)
                phase.epochs += 1
                phase.extra["begun"] = 1
                seen = phase.extra.get("epochs_watched", 0)
                if not self._deep and self._is_open(phase) and seen < MAX_EPOCHS and phase.made > FIRST_ALONE:
                    phase.extra["epochs_watched"] = seen + 1
                    with self._quiet:
                        self._go_deep()
            with self._paused() if self._mine() and self._deep else nullcontext():
                batches = original(loader)
            if self._mine():
                with suppress(TypeError):  # no length, or nothing that a weak reference can be made to
                    self._batches = weakref.ref(batches), len(loader)
            return batches

        return __iter__

    def _loader_next(self, original: Any) -> Any:
        def __next__(iterator: Any) -> Any:  # noqa: N807 - it takes this one's place
            if not self._mine() or not self._deep:
                return original(iterator)
            # Of what a Dataset does with each row, what it does with a network's outputs is followed.
            self._tape.is_loading = True
            try:
                return original(iterator)
            finally:
                self._tape.is_loading = False

        return __next__

    def _load_state_dict(self, original: Any) -> Any:
        def load_state_dict(module: Any, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
            out = original(module, state_dict, *args, **kwargs)
            if self._mine():
                with self._quiet:
                    strict = args[0] if args else kwargs.get("strict", True)
                    where = place(2)
                    self._networks.note_loading(module, state_dict, bool(strict), str(where) if where else None)
            return out

        return load_state_dict

    def _train(self, original: Any) -> Any:
        def train(module: Any, mode: bool = True) -> Any:
            # The modules inside it are switched by calls of their own.
            if not mode or self._switching or not self._mine():
                return original(module, mode)
            self._switching = True
            try:
                return original(module, mode)
            finally:
                self._switching = False
                with suppress(TypeError):
                    self._switched_on[module] = self._steps_made

        return train

    def _note_switched(self, phase: Phase, step: Step) -> None:
        """Which networks learn with dropout or batch norm switched off, though ``train()`` was called on them."""
        for call in step.calls:
            module = call.network.module()
            if not call.gradient or call.training or call.live or not call.still or module is None:
                continue
            if call.network.serial in phase.switched_on:
                continue
            since = [each for each, made in self._switched_on.items() if made >= phase.extra["since"]]
            if any(module is inner for each in since for inner in each.modules()):
                phase.switched_on.add(call.network.serial)

    def _functional_call(self, original: Any) -> Any:
        def functional_call(*args: Any, **kwargs: Any) -> Any:
            if self._mine() and self._deep and self._window.closing and not self._tape.open:
                # Inside it the module has other parameters.
                with self._quiet:
                    self._close_window()
            if self._mine() and self._deep and len(args) > 1 and isinstance(args[1], dict):
                with self._quiet, _past_modes():
                    self._networks.note_functional(args[0], args[1])
            return original(*args, **kwargs)

        return functional_call

    def _vmap(self, original: Any) -> Any:
        def vmap_impl(function: Any, *args: Any, **kwargs: Any) -> Any:
            inside = torch._C._functorch.maybe_current_level() is not None
            if inside or not self._mine() or not self._deep or not self._tape.active:
                return original(function, *args, **kwargs)
            captured: list[Tensor] = []
            follows = False
            with self._quiet, _past_modes():
                captured = tensors_in(captured_by(function))
                held = tensors_in(args, kwargs, captured)
                follows = self._tape.came_from_networks(held)
            if not follows:
                return original(function, *args, **kwargs)
            # Under vmap a tensor stands for many: what comes out of it is one step from what went in.
            with self._paused():
                out = original(function, *args, **kwargs)
            with self._quiet, _past_modes():
                self._tape.record(again, "vmap", (function, *args), {**kwargs, "captured": captured}, out)
            return out

        def again(*args: Any, captured: list[Tensor], **kwargs: Any) -> Any:
            return original(*args, **kwargs)

        return vmap_impl

    def _variable(self, original: Any) -> Any:
        def __new__(cls: Any, data: Any = None, *args: Any, **kwargs: Any) -> Any:  # noqa: N807 - it takes this one's place
            made = original(cls, data, *args, **kwargs)
            if isinstance(data, Tensor) and self._mine() and self._deep and self._tape.active:
                # Of old: the same numbers without their gradient, and no function mode hears of it.
                with self._quiet, _past_modes():
                    if self._tape.came_from_networks([data]):
                        self._tape.record(Tensor.detach, "detach", (data,), {}, made)
            return made

        return staticmethod(__new__)

    def _function_apply(self, original: Any) -> Any:
        inner = original.__func__

        def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
            out = inner(cls, *args, **kwargs)
            if self._mine() and self._deep and self._tape.active:
                with self._quiet, _past_modes():
                    self._note_own_gradient(cls, args, out)
            return out

        return classmethod(apply)

    def _note_own_gradient(self, function: Any, args: Any, out: Any) -> None:
        """What a function with its own backward pass gives has a gradient, which its forward pass does not show."""
        made = [each for each in tensors_in((out,)) if each.requires_grad]
        lost = [each for each in made if not self._tape.is_output(each) and not self._tape.bits(each)[1]]
        if lost and self._tape.came_from_networks(tensors_in(args)):
            self._tape.record(function.apply, "apply", tuple(args), {}, out)

    def _compile(self, original: Any) -> Any:
        def compile(model: Any = None, *args: Any, **kwargs: Any) -> Any:
            if model is None:
                return lambda given: compile(given, *args, **kwargs)
            made = original(model, *args, **kwargs)
            if isinstance(made, nn.Module) or isinstance(model, type):
                return made

            def compiled(*arguments: Any, **named: Any) -> Any:
                if not self._mine() or not self._deep:
                    return made(*arguments, **named)
                with self._paused():
                    out = made(*arguments, **named)
                with self._quiet:
                    if not self._pauses:
                        self._tape.record(made, "compiled", arguments, named, out)
                return out

            with suppress(AttributeError, TypeError):
                compiled.__dict__.update(made.__dict__)
                compiled.__name__, compiled.__doc__ = made.__name__, made.__doc__
                compiled.__wrapped__ = made  # type: ignore[attr-defined]
            return compiled

        return compile

    # A window becomes a step.

    def _close_window(self, keep_tape: bool = False) -> None:
        """Turn what was seen since the last step into facts, and decide whether the next is watched."""
        if self._window.passed and self._tape.strays and self._again:
            # Something came out of a network that was run past the tape: it is seen whole again.
            self._again -= 1
            self._familiar.clear()
            self._window.partial = True
        if self._window.partial or self._tape.lost:
            # It began in the middle of a step, or it held too much: the next one is seen whole.
            for each in self.phases[-1:]:
                each.made += bool(self._window.optimizers)
            for call in self._tape.calls:
                if not call.grad:
                    self._networks.note_asked(call.module, call.inputs, call.outputs, self.phases, call.place, call)
            self._begin_window()
            self._reader.reached = set()
            return
        self._tape.last = self._window.ends if keep_tape else None
        with self._paused():
            phase = self._make_step(keep_tape)
        if phase is not None:
            self._note_whole()
        self._tape.last = None
        deep = phase is None or (phase.number not in self._complete and self._wants_more(phase))
        if phase is not None and phase.number in self._complete:
            self._completed(phase)
        if keep_tape and deep:
            first = self._window.ends
            self._window = Window()
            self._tape.first = self._window.ends = first
            return
        self._begin_window()
        if not deep:
            self._go_light()

    def _begin_window(self) -> None:
        """Forget what was seen, but for what was computed after the step: it may belong to the next."""
        tail = self._tape.nodes[self._window.tail :] if self._window.tail is not None else []
        self._tape.clear()
        self._tape.carry(tail)
        self._window = Window()

    def _completed(self, phase: Phase) -> None:
        if phase.distils and not phase.extra.get("reported"):
            phase.extra["reported"] = True
            if self._watched is not None:
                with self._paused():
                    self._watched()

    def _wants_more(self, phase: Phase) -> bool:
        enough = len(phase.steps) >= self.steps
        if self.stop and phase.distils:
            enough |= phase.made - phase.extra["distils_since"] >= max(FIRST, self.steps)
        if enough and self._awaited_since and not self._lacks(phase):
            # What was awaited has come: a few steps with it are watched, too.
            enough = phase.made - phase.extra.setdefault("came_at", phase.made) >= FIRST
        if enough and not self._awaits(phase):
            self._complete.add(phase.number)
            return False
        if phase.distils and len(phase.steps) == FIRST and self._watched is not None:
            # The first verdict, in case the process ends without a word.
            with self._paused():
                self._watched()
        return (self.stop and phase.distils and not enough) or self._wants(phase)

    def _make_step(self, keep_tape: bool) -> Phase | None:
        if not self._window.backwards:
            if self._window.optimizers and not any(map(holds_gradients, self._window.optimizers)):
                self.idle.append(next((where for name, where in self._window.events if name == "step"), None))
            return None
        stepping = list(dict.fromkeys(self._window.optimizers))
        optimizers = stepping or self._meant_to_step()
        parameters = {
            id(p): weakref.ref(p) for each in optimizers for group in each.param_groups for p in group["params"]
        }
        phase = self.phases[-1] if self.phases else None
        if phase is None or self._begins_phase(phase, optimizers, set(parameters)):
            if not parameters:
                return None
            phase = self._begin_phase()
        is_new = bool(phase.steps) and not any(each in self._phase_optimizers for each in optimizers)
        step = self._describe_step(phase, optimizers, parameters, keep_tape)
        if is_new and not phase.distils and any(each.reads_teacher for each in step.backwards):
            # A network that was trained without a teacher goes on with one, under another optimizer.
            phase = self._begin_phase()
            step = self._describe_step(phase, optimizers, parameters, keep_tape)
        if not keep_tape:
            self._reader.reached = set()
        self._note_switched(phase, step)
        step.stepped = bool(stepping)
        if self._window.changed is not None:
            step.update, step.stuck = self._window.changed
            step.decay = self._window.decay
            phase.extra["updates"] = phase.extra.get("updates", 0) + 1
        for loop in self._window.loops:
            if loop.value is not None:
                phase.loops.setdefault(loop.key, LoopCount(loop.count)).seen.append((phase.made, loop.value))
        phase.made += 1
        if len(phase.steps) < FIRST_ALONE:
            for one in self._networks.asked:
                owner = one.network.module()
                one.kept |= owner is not None and self._tape.outlives(owner, one.classes)
        phase.steps.append(step)
        if phase.distils:
            phase.extra.setdefault("distils_since", step.number)
        if self._follower is None and len(phase.steps) < FIRST_ALONE:
            self._follower = self._reader.follower(step)
        elif len(phase.steps) >= FIRST or (
            len(phase.steps) > FIRST_ALONE
            and not any(each.averaging and (each.averaging.teacher or each.averaging.student) for each in phase.steps)
        ):
            self._follower = None
        return phase

    def _begin_phase(self) -> Phase:
        """From here on other parameters learn, or they learn from a teacher."""
        for phase in self.phases[-1:]:
            phase.finished = True
        self._networks.begin_phase()
        self.phases.append(Phase(len(self.phases)))
        if self._batches is not None and self._batches[0]() is not None:
            self.phases[-1].loader_length = self._batches[1]
        self.phases[-1].extra["since"] = self._steps_made - len(self._window.optimizers)
        self._earlier_optimizers, self._phase_optimizers = self._phase_optimizers, weakref.WeakSet()
        self._reader.begin_phase()
        self._follower = None
        self._familiar.clear()
        self._again = AGAIN
        return self.phases[-1]

    def _describe_step(
        self,
        phase: Phase,
        optimizers: Sequence[torch.optim.Optimizer],
        parameters: dict[int, weakref.ref[Tensor]],
        keep_tape: bool,
    ) -> Step:
        self._networks.begin_step(parameters, anew=self._is_full())
        for each in optimizers:
            if each not in self._phase_optimizers:
                phase.extra["optimizers"] = phase.extra.get("optimizers", 0) + 1
            self._phase_optimizers.add(each)
        step = Step(phase.made, phase.epochs, events=list(self._window.events))
        step.learning_rate = max((rate(each) for each in optimizers), default=0.0)
        rates = [g.get(key, 0.0) for each in optimizers for g in each.param_groups for key in ("initial_lr", "max_lr")]
        step.base_rate = max(map(float, rates), default=0.0)
        step.optimizer = type(optimizers[0]).__name__ if optimizers else ""
        self._reader.read(step, self._window, self.phases, keep_tape)
        return step

    def _begins_phase(self, phase: Phase, optimizers: Sequence[Any], parameters: set[int]) -> bool:
        """Whether other parameters learn now than did in a phase: a new optimizer holds some that it did not train."""
        learners, trained = self._networks.learners.keys(), self._networks.trained.keys()
        if parameters <= learners:
            return False
        if any(each in self._phase_optimizers for each in optimizers):
            # One that trained alone, as of a teacher that is warmed up, goes on next to another.
            return phase.made > IN_TURNS and any(each not in self._phase_optimizers for each in optimizers)
        if phase.made <= IN_TURNS and optimizers and all(each in self._earlier_optimizers for each in optimizers):
            return False  # they step in turns, each several times
        # Of several optimizers that step in turns, the second comes right after the first.
        return not (phase.made <= 2 and not trained & parameters and not parameters & learners)

    def _meant_to_step(self) -> list[torch.optim.Optimizer]:
        """Where no optimizer stepped: those that hold what the losses' gradients reach."""
        gradients = 0
        for raw, _, _ in self._window.backwards:
            gradients |= raw.gradient
        reached = facts.bits(gradients, self._tape.sources)
        parameters = {id(p) for s in reached if s.call is not None for p in s.call.module.parameters()}
        parameters |= {id(s.tensor) for s in reached if s.kind == "parameter"}
        return [
            each
            for each in self._optimizers
            if parameters & {id(p) for group in each.param_groups for p in group["params"]}
        ]


_current: Watch | None = None


def current() -> Watch | None:
    """The audit that is running in this process."""
    return _current


def _in_child() -> None:
    if _current is not None:
        _current.disown()


os.register_at_fork(after_in_child=_in_child)


def _is_compiled(module: nn.Module) -> bool:
    return type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None


def _are_finite(tensors: list[Tensor]) -> bool:
    """Whether all numbers are finite, by their norms."""
    norms = torch._foreach_norm(tensors) if tensors else ()
    return all(math.isfinite(norm.item()) for norm in norms)


def _last(names: Sequence[str], wanted: str) -> int:
    return max((i for i, name in enumerate(names) if name == wanted), default=0)


__all__ = ["CodeLine", "StopScript", "Tensor", "Watch", "current"]
