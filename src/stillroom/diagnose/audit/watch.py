"""Watches a training loop that is not ours: what is patched in torch, which steps are seen, who learns, who teaches."""

from __future__ import annotations

import math
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from stillroom.diagnose.audit import facts
from stillroom.diagnose.audit.source import counted_loops, only_steps
from stillroom.diagnose.audit.tape import Call, CodeLine, Source, Tape, is_user, place, tensors_in, user_frame
from stillroom.diagnose.checks.loop.record import (
    BackwardFacts,
    CallFacts,
    InferenceCall,
    LeftOut,
    Loading,
    LoopCount,
    Network,
    Phase,
    Role,
    Schedule,
    Step,
)

_optimizers = sys.modules["torch.optim.optimizer"]
# Reads attributes of tensors past all modes: through the tape, each read would be a call in Python.
_past_modes = torch._C.DisableTorchFunction
_clip = sys.modules["torch.nn.utils.clip_grad"]
# The first steps of a phase that are watched one after another, where a teacher is heard and where none is.
FIRST, FIRST_ALONE = 12, 4
# A loss of a phase that no teacher is heard in is looked at again after so many steps.
LATER = frozenset(int(base * 2**power) for power in range(4, 24) for base in (1, 1.5))
MAX_PHASES, MAX_PRINTS, MAX_ASKED, MAX_WAKES = 8, 20_000, 400, 24
# How many steps of a phase the change of the parameters is measured in, by how many numbers of each.
MAX_UPDATES, UPDATE_NUMBERS = 6, 2**16
# Modules that take a faster path unless a mode is entered: nothing is seen inside them.
_FAST_PATHS = (nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerEncoderLayer)
_STOCHASTIC = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
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
        failed = isinstance(error, Exception) and not os.environ.get("STILLROOM_AUDIT_DEBUG")
        if failed:
            watch.errors.append(f"{type(error).__name__}: {error}")
            watch._on = watch._deep = False
        watch._tape.active = watch._deep and not watch._pauses
        return failed


@dataclass(eq=False)
class Familiar:
    """A network that is one step of the tape: how it was run in the steps that saw it whole."""

    parts: tuple[nn.Module, ...]  # the module and all inside it
    # By the way it was run: in how many steps, and what acted as in training, and what was switched off.
    runs: dict[Any, tuple[int, set[str], set[str]]] = field(default_factory=dict)

    def way(self, args: Any, kwargs: Any) -> Any:
        """What may change what a call does inside: modes, hooks, the form of its arguments."""
        modes = [each.training for each in self.parts]
        hooks = sum([len(each._forward_hooks) for each in self.parts])
        return bytes(modes), hooks, torch.is_grad_enabled(), len(args), *kwargs


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
        self.whole_script = True
        self._watched = watched
        self._named = {"teacher": list(teacher), "student": list(student)}
        self._tape = Tape()
        self._quiet = _Quiet(self)
        self._on = self._deep = False
        self._depth = self._pauses = self._wakes = 0
        self._thread = threading.get_ident()
        self._process = os.getpid()
        self._optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet(optimizers)
        self._networks: weakref.WeakKeyDictionary[nn.Module, Network] = weakref.WeakKeyDictionary()
        self._labels: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
        self._has_parameters: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
        self._loadings: list[tuple[weakref.ref[nn.Module], Loading]] = []
        self._schedules: dict[int, tuple[weakref.ref[Any], Schedule, weakref.ref[Any]]] = {}
        self._stepped_schedule: Any = None
        # Parameters that an optimizer stepped in an earlier phase, or that were loaded.
        self._trained: dict[int, weakref.ref[Tensor]] = {}
        self._loaded: dict[int, weakref.ref[Tensor]] = {}
        self._step_lines: dict[str, set[int]] = {}
        self._files: set[str] = set()
        self._asked: list[InferenceCall] = []
        self._patches: list[tuple[Any, str, Any]] = []
        self._hooks: list[Any] = []
        self._learners: dict[int, weakref.ref[Tensor]] = {}
        self._phase_optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._complete: set[int] = set()
        self._teachers: set[int] = set()
        self._reached: set[int] = set()
        self._familiar: weakref.WeakKeyDictionary[nn.Module, Familiar] = weakref.WeakKeyDictionary()
        self._again = AGAIN
        self._woken: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
        # Optimizers whose parameters held gradients when the first backward of a step began.
        self._left_over: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._reset_window()

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
        self._patch(torch.optim.Optimizer, "__init__", self._optimizer_init)
        self._patch(torch.optim.Optimizer, "zero_grad", self._noting("zero_grad"))
        self._patch(nn.Module, "zero_grad", self._noting("zero_grad"))
        self._patch(nn.Module, "load_state_dict", self._load_state_dict)
        self._patch(_clip, "_clip_grads_with_norm_", self._noting("clip"))
        self._patch(torch.nn.utils, "clip_grad_value_", self._noting("clip"))
        scaler = torch.amp.grad_scaler.GradScaler
        for name in ("scale", "step", "update", "unscale_"):
            self._patch(scaler, name, self._noting(f"scaler.{name}", pause=True))
        schedulers = torch.optim.lr_scheduler
        self._patch(schedulers.LRScheduler, "__init__", self._scheduler_init)
        for cls in (schedulers.LRScheduler, schedulers.SequentialLR, schedulers.ChainedScheduler):
            self._patch(cls, "step", self._scheduler_step)
        self._patch(DataLoader, "__iter__", self._loader_iter)
        self._patch(torch, "compile", self._compile)
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
            if self._deep and self._window_backwards:
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
            setattr(owner, name, original)
        self._patches.clear()
        _current = None

    @property
    def schedules(self) -> list[Schedule]:
        """The learning-rate schedulers that were made."""
        never = all(only_steps(file, frozenset(self._step_lines.get(file, ()))) for file in self._files)
        for _, schedule, _ in self._schedules.values():
            schedule.never = never and bool(self._step_lines) and not schedule.steps
        return [schedule for _, schedule, _ in self._schedules.values()]

    @property
    def asked(self) -> list[InferenceCall]:
        """Networks that were run without gradients outside steps."""
        return self._asked

    def disown(self) -> None:
        """In a process that was forked off: see nothing more."""
        self._on = self._deep = False
        self._tape.active = False

    def _patch(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        original = owner.__dict__[name]
        self._patches.append((owner, name, original))
        made = make(original)
        for attribute in ("__name__", "__qualname__", "__module__", "__doc__", "__wrapped__"):
            with suppress(AttributeError, TypeError):
                setattr(made, attribute, getattr(original, attribute) if attribute != "__wrapped__" else original)
        setattr(owner, name, made)

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """See nothing in a block, and be nowhere in torch's stack of modes."""
        self._pauses += 1
        self._tape.active = False
        self._tape.leave()
        try:
            yield
        finally:
            self._pauses -= 1
            if self._deep and not self._pauses:
                self._tape.enter()
                self._tape.active = True

    def _mine(self) -> bool:
        return self._on and threading.get_ident() == self._thread

    def _go_deep(self) -> None:
        if not self._deep:
            self._deep = True
            self._tape.clear()
            self._reset_window()
            if not self._pauses:
                self._tape.enter()
                self._tape.active = True

    def _go_light(self) -> None:
        self._deep = False
        self._tape.active = False
        self._tape.leave()
        self._tape.clear()

    def _reset_window(self) -> None:
        self._window_backwards: list[tuple[facts.Raw, float | None, bool]] = []
        self._window_optimizers: list[torch.optim.Optimizer] = []
        self._window_events: list[tuple[str, str | None]] = []
        self._window_graded: list[tuple[Call, dict[str, nn.Parameter]]] = []
        self._window_update: tuple[list[Tensor], list[Tensor], float | None] | None = None
        self._window_stuck: float | None = None
        self._window_gradients: set[str] = set()
        self._window_clips: list[bool] = []
        self._window_clipped: tuple[float, set[int]] | None = None
        self._window_loops: list[Any] = []
        # Parameters of the networks, listed once while the window is judged.
        self._window_parameters: dict[int, list[nn.Parameter]] = {}
        self._window_samples: dict[int, Tensor] = {}
        # Networks that this window saw whole, and in which way they were run; whether it ran one past the tape.
        self._window_whole: dict[nn.Module, tuple[Familiar, Any, Call]] = {}
        self._window_passed = False
        self._window_ends = 0
        self._closing = self._stepping = self._partial = False

    # Modules.

    def _module_call(self, original: Any) -> Any:
        watch = self

        def __call__(module: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: N807 - it takes this one's place
            if not watch._on or threading.get_ident() != watch._thread:
                return original(module, *args, **kwargs)
            if watch._deep and watch._tape.active:
                return watch._deep_call(original, module, args, kwargs)
            if watch._depth:
                return original(module, *args, **kwargs)
            watch._depth = 1
            try:
                out = original(module, *args, **kwargs)
            finally:
                watch._depth = 0
            if not torch.is_grad_enabled():
                with watch._quiet:
                    watch._note_asked(module, args, out, None)
                    watch._wake(module, args, out)
            return out

        return __call__

    def _deep_call(self, original: Any, module: nn.Module, args: Any, kwargs: Any) -> Any:
        tape = self._tape
        call = None
        with self._quiet:
            if not tape.open:
                if self._closing:
                    self._close_window()
                elif tape.looked_at is not None:
                    self._note_skipped()
            if self._deep and module not in self._labels:
                self._labels[module] = _label(module)
                self._has_parameters[module] = next(module.parameters(), None) is not None
            if self._deep:
                with _past_modes():
                    call = tape.begin(module, args, kwargs, self._labels[module])
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
                self._window_passed = True
            elif opaque:
                for each in module.modules():
                    if isinstance(each, _STOCHASTIC):
                        short = "dropout" if isinstance(each, nn.modules.dropout._DropoutNd) else "batch norm"
                        (call.live if each.training else call.still).add(short)
            with _past_modes():
                single = tape.end(call, out, self._has_parameters[module])
            if passed and not single:
                # It gives a loss this time, and what is inside was not seen.
                del self._familiar[module]
                self._partial = True
            elif single and not opaque and not passed and tape.escaped == escaped:
                familiar = familiar or Familiar(tuple(module.modules()))
                self._window_whole[module] = familiar, familiar.way(args, kwargs) if way is None else way, call
        return out

    def _note_whole(self) -> None:
        """What a step saw whole need not be seen so again, unless a part of it was used outside."""
        for module, (familiar, way, call) in self._window_whole.items():
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
        call = Call(module, self._labels.get(module) or type(module).__name__, place(4), module.training, False, 0, ())
        self._tape.remember(tensors_in(out), call)
        self._go_deep()
        self._partial = True

    def _note_asked(self, module: nn.Module, args: Any, out: Any, call: Call | None) -> None:
        """A module that was run without gradients: an evaluation, a teacher, or answers to be stored."""
        if call is None and id(module) in self._teachers:
            return
        outputs = [each for each in tensors_in(out) if each.dim() >= 2 and each.is_floating_point()]
        inputs = [each for each in tensors_in(args) if each.dim() >= 1]
        if not outputs or not inputs or len(self._asked) >= MAX_ASKED:
            return
        if call is not None:
            live = frozenset(call.live)
        else:
            live = frozenset(
                "dropout" if isinstance(each, nn.modules.dropout._DropoutNd) else "batch norm"
                for each in module.modules()
                if isinstance(each, _STOCHASTIC) and each.training and getattr(each, "p", 1.0) != 0
            )
        network = self._network(module)
        last = self._asked[-1] if self._asked else None
        phase = self.phases[-1] if self.phases else None
        during = phase.made if phase is not None else 0
        prints = facts.row_prints(inputs[0]) if inputs[0].dim() >= 2 else []
        if last is not None and last.network is network and last.during == during and last.live == live:
            last.rows += inputs[0].shape[0]
            if len(last.prints) < MAX_PRINTS:
                last.prints.update(prints)
            return
        where = call.place if call is not None else place(4)
        self._asked.append(
            InferenceCall(
                network,
                str(where) if where else None,
                inputs[0].shape[0],
                outputs[0].shape[-1],
                live,
                set(prints),
                False,
                during,
                len(self.phases),
            )
        )

    def _network(self, module: nn.Module) -> Network:
        found = self._networks.get(module)
        if found is None:
            label = self._labels.get(module) or _label(module)
            own = {id(each) for each in module.modules()}
            parameters = list(module.parameters())
            found = Network(
                weakref.ref(module),
                label,
                any(_is_in(self._trained, p) for p in parameters),
                [
                    loading
                    for reference, loading in reversed(self._loadings)
                    for other in [reference()]
                    if other is not None and (id(other) in own or any(module is each for each in other.modules()))
                ],
                sum(p.numel() for p in parameters),
                tuple(tuple(p.shape) for p in parameters),
            )
            self._networks[module] = found
        return found

    # Backward, steps, schedules.

    def _backward_call(self, original: Any) -> Any:
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._mine():
                return original(tensors, *args, **kwargs)
            self.seen_backward += 1
            if not self._deep:
                return original(tensors, *args, **kwargs)
            with self._quiet:
                self._before_backward(tensors)
            with self._paused():
                out = original(tensors, *args, **kwargs)
            with self._quiet:
                self._after_backward()
            return out

        return backward

    def _before_backward(self, tensors: Any) -> None:
        events = [name for name, _ in self._window_events]
        if self._closing:
            self._close_window(keep_tape=True)
        elif self._window_backwards and "zero_grad" in events[_last(events, "backward") :]:
            # The gradients were cleared and no optimizer stepped: a step that was skipped.
            self._close_window(keep_tape=True)
        where = place(4)
        text = str(where) if where else None
        self._tape.looked_at = None
        if "backward" not in events:
            held = [each for each in self._phase_optimizers if _has_gradient(each)]
            self._left_over = weakref.WeakSet(held)
        self._window_events.append(("backward", text))
        for loss in tensors_in(tensors if isinstance(tensors, list | tuple) else (tensors,)):
            if loss.numel() != 1:
                continue
            sources, gradient = self._tape.bits(loss)
            raw = facts.Raw(loss, text, self._tape.ancestors(loss), sources, gradient)
            self._window_backwards.append((raw, float(loss.detach()), True))
        self._window_ends = len(self._tape.nodes)

    def _note_skipped(self) -> None:
        """The script looked at a loss, and the next step begins: one that is not finite was left out."""
        loss, self._tape.looked_at = self._tape.looked_at, None
        if loss is not None and not bool(torch.isfinite(loss.detach())) and not self._window_backwards:
            self._before_backward(loss)
            self._close_window()

    def _after_backward(self) -> None:
        if not self._window_backwards:
            return
        raw, value, _ = self._window_backwards[-1]
        seen: set[int] = set()
        gradients = []
        with _past_modes():
            for call in self._tape.calls:
                if id(call.module) not in seen:
                    seen.add(id(call.module))
                    gradients += [p.grad for p in call.module.parameters() if p.grad is not None]
        finite = True
        if gradients and value is not None:
            norms = torch._foreach_norm([g for g in gradients if not g.is_sparse])
            finite = bool(torch.isfinite(torch.stack([norm.float().cpu() for norm in norms])).all())
        self._window_backwards[-1] = (raw, value, finite)

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
        closure = len(args) > 1 or kwargs.get("closure") is not None
        with self._quiet:
            if closure and self._closing:
                self._close_window()  # the closure computes the next step
            if not self._deep:
                return
            names = [name for name, _ in self._window_events]
            self._note_step_line()
            self._window_optimizers.append(optimizer)
            if not closure:
                if optimizer in self._left_over:
                    self._window_gradients.add("left_over")
                if "backward" in names and _last(names, "zero_grad") > _last(names, "backward"):
                    self._window_gradients |= set() if _has_gradient(optimizer) else {"cleared"}
                if "scaler.scale" in names and not {"scaler.step", "scaler.unscale_"} & set(names):
                    self._window_gradients.add("scaled")
            if len(self._window_optimizers) == 1 and not closure:
                self._note_gradients()
            phase = self.phases[-1] if self.phases else None
            if not closure and (phase is None or phase.extra.get("updates", 0) < MAX_UPDATES):
                given = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
                parameters = [p for p in given if p.dim() >= 2]  # of a bias that begins at 0, any step is a large share
                before = [p.detach().flatten()[:UPDATE_NUMBERS].clone() for p in parameters]
                self._window_update = parameters, before, None
            if not closure:
                self._pauses += 1
                self._stepping = True
                self._tape.leave()

    def _note_step_line(self, depth: int = 4) -> None:
        """The user's line that makes a step, and the loops that it stands in."""
        frame = user_frame(depth)
        self._window_events.append(("step", None))
        if frame is None:
            return
        file, line = frame.f_code.co_filename, frame.f_lineno
        self._window_events[-1] = ("step", str(CodeLine(file, line)))
        self._step_lines.setdefault(file, set()).add(line)
        self._window_loops = counted_loops(frame)
        while frame is not None:
            if is_user(frame.f_code.co_filename):
                self._files.add(frame.f_code.co_filename)
            frame = frame.f_back

    def _note_clipped(self, parameters: Any) -> None:
        """Gradients that are clipped with the others, and that no optimizer uses."""
        graded = [p for p in parameters if p.grad is not None and not p.grad.is_sparse]
        self._window_clips.append(any(id(p) in self._learners for p in parameters))
        foreign = [p for p in graded if id(p) not in self._learners]
        if foreign:
            own, whole = (
                float(torch.stack(torch._foreach_norm([p.grad for p in each])).square().sum())
                for each in (foreign, graded)
            )
            self._window_clipped = own / max(whole, 1e-30), {id(p) for p in foreign}

    def _note_gradients(self) -> None:
        """Parameters that have a gradient, by the outermost module that holds them."""
        seen: set[int] = set()
        for call in self._tape.calls:
            # What ran without gradients gave none.
            if id(call.module) in seen or not call.grad:
                continue
            seen.add(id(call.module))
            with _past_modes():
                graded = {n: p for n, p in _all_parameters(call.module) if p.grad is not None}
            self._window_graded.append((call, graded))

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if not self._mine():
            return
        for reference, schedule, owner in self._schedules.values():
            if owner() is optimizer:
                schedule.optimizer_steps += 1
                count = schedule.optimizer_steps
                if count <= 16 or count in LATER:
                    schedule.rates.append((count, _rate(optimizer)))
                del reference
                break
        if self._stepping:
            self._stepping = False
            self._pauses -= 1
        elif self._deep and len(self._window_optimizers) == 1:
            # A closure made the gradients inside the step.
            with self._quiet:
                self._note_gradients()
        if self._deep and self._window_update is not None:
            with self._quiet:
                self._measure_update()
        if self._deep:
            if not self._pauses:
                self._tape.enter()
                self._tape.active = True
            self._closing = True
            return
        phase = self.phases[-1] if self.phases else None
        if phase is None:
            return
        if optimizer in self._phase_optimizers:
            phase.made += 1
        with self._quiet:
            if len(phase.steps) < self.steps and phase.number not in self._complete and self._wants(phase):
                self._go_deep()
        if self.stop and phase.number in self._complete and phase.distils:
            raise StopScript(0)

    def _measure_update(self) -> None:
        assert self._window_update is not None
        parameters, before, _ = self._window_update
        if before:
            self._window_stuck = _stuck(parameters, before)
            now = [p.detach().flatten()[:UPDATE_NUMBERS] for p in parameters]
            changed, size = (
                torch.stack([norm.float() for norm in torch._foreach_norm(each)])
                for each in (torch._foreach_sub(now, before), before)
            )
            share = torch.where(size > 0, changed / size.clamp_min(1e-30), 0.0)
            self._window_update = [], [], float(share.max())

    def _wants(self, phase: Phase) -> bool:
        """Whether the next step of a phase is to be watched."""
        first = FIRST if phase.distils else FIRST_ALONE
        return phase.made < first or phase.made in LATER or self._epoch_begun(phase)

    def _epoch_begun(self, phase: Phase) -> bool:
        begun = phase.extra.pop("begun", 0)
        return bool(begun) and phase.extra.get("epochs_watched", 0) < 8

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
                    self._window_events.append((name, str(where) if where else None))
                    if name == "clip" and args and isinstance(args[0], list):
                        with self._quiet:
                            self._note_clipped(args[0])
                    if pause:
                        before = len(self._window_optimizers)
                        out = original(*args, **kwargs)
                        if name == "scaler.step" and len(self._window_optimizers) == before:
                            self._closing = True
                            for phase in self.phases[-1:]:
                                phase.skipped_by_scaler += 1
                        return out
                return original(*args, **kwargs)

            return noting

        return make

    def _scheduler_init(self, original: Any) -> Any:
        def __init__(scheduler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            if self._mine():
                with self._quiet:
                    for cls in type(scheduler).__mro__:
                        # Some schedules have a step() of their own.
                        if "step" in vars(cls) and not any(each[:2] == (cls, "step") for each in self._patches):
                            self._patch(cls, "step", self._scheduler_step)
                    where = place(2)
                    self._schedules[id(scheduler)] = (
                        weakref.ref(scheduler),
                        Schedule(type(scheduler).__name__, str(where) if where else None, None),
                        weakref.ref(optimizer),
                    )
            original(scheduler, optimizer, *args, **kwargs)
            if self._mine():
                with self._quiet:
                    schedule = self._schedules[id(scheduler)][1]
                    schedule.steps = 0
                    schedule.period, schedule.over_at = _horizon(scheduler)
                    frame = user_frame(2)
                    if frame is not None:
                        self._files.add(frame.f_code.co_filename)

        return __init__

    def _scheduler_step(self, original: Any) -> Any:
        def step(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._mine() or scheduler is self._stepped_schedule:
                return original(scheduler, *args, **kwargs)
            for each in getattr(scheduler, "_schedulers", ()):
                # One that steps others, each in its time: what it has not come to is not forgotten.
                self._schedules.pop(id(each), None)
            found = self._schedules.get(id(scheduler))
            if found is not None:
                found[1].steps += 1
                if found[1].step_place is None or found[1].steps < 3:
                    where = place(2)
                    found[1].step_place = str(where) if where else None
            before, self._stepped_schedule = self._stepped_schedule, scheduler
            try:
                return original(scheduler, *args, **kwargs)
            finally:
                self._stepped_schedule = before

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
                open_ = phase.number not in self._complete and len(phase.steps) < self.steps
                if not self._deep and open_ and seen < 8 and phase.made > FIRST_ALONE:
                    phase.extra["epochs_watched"] = seen + 1
                    with self._quiet:
                        self._go_deep()
            if self._mine() and self._deep:
                with self._paused():
                    return original(loader)
            return original(loader)

        return __iter__

    def _load_state_dict(self, original: Any) -> Any:
        def load_state_dict(module: Any, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
            out = original(module, state_dict, *args, **kwargs)
            if self._mine():
                with self._quiet:
                    where = place(2)
                    own = set(module.state_dict())
                    self._loaded |= {id(p): weakref.ref(p) for n, p in module.named_parameters() if n in state_dict}
                    strict = args[0] if args else kwargs.get("strict", True)
                    self._loadings.append(
                        (
                            weakref.ref(module),
                            Loading(
                                str(where) if where else None,
                                bool(strict),
                                len(own),
                                len(own & set(state_dict)),
                                tuple(str(key) for key in state_dict if key not in own)[:20],
                                tuple(sorted(own - set(state_dict)))[:200],
                            ),
                        )
                    )
            return out

        return load_state_dict

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
                    if self._tape.active:
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
        if self._window_passed and self._tape.strays and self._again:
            # Something came out of a network that was run past the tape: it is seen whole again.
            self._again -= 1
            self._familiar.clear()
            self._partial = True
        if self._partial or self._tape.lost:
            # It began in the middle of a step, or it held too much: the next one is seen whole.
            for each in self.phases[-1:]:
                each.made += bool(self._window_optimizers)
            for call in self._tape.calls:
                if not call.grad:
                    self._note_asked(call.module, call.inputs, call.outputs, call)
            self._tape.clear()
            self._reset_window()
            self._reached = set()
            return
        self._tape.last = self._window_ends if keep_tape else None
        with self._paused():
            phase = self._make_step(keep_tape)
        if phase is not None:
            self._note_whole()
        self._tape.last = None
        deep = phase is None or (phase.number not in self._complete and self._wants_more(phase))
        if phase is not None and phase.number in self._complete:
            self._completed(phase)
        if keep_tape and deep:
            first = self._window_ends
            self._reset_window()
            self._tape.first = self._window_ends = first
            return
        self._tape.clear()
        self._reset_window()
        if not deep:
            self._go_light()

    def _completed(self, phase: Phase) -> None:
        if phase.distils and not phase.extra.get("reported"):
            phase.extra["reported"] = True
            if self._watched is not None:
                with self._paused():
                    self._watched()

    def _wants_more(self, phase: Phase) -> bool:
        if len(phase.steps) >= self.steps:
            self._complete.add(phase.number)
            return False
        if phase.distils and len(phase.steps) == FIRST and self._watched is not None:
            # The first verdict, in case the process ends without a word.
            with self._paused():
                self._watched()
        if self.stop and phase.distils and phase.made >= max(FIRST, self.steps):
            self._complete.add(phase.number)
            return False
        if self.stop and phase.distils:
            return True
        return self._wants(phase)

    def _make_step(self, keep_tape: bool) -> Phase | None:
        if not self._window_backwards:
            return None
        stepping = list(dict.fromkeys(self._window_optimizers))
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
            self._reached = set()
        step.stepped = bool(stepping)
        if self._window_update is not None:
            step.update, step.stuck = self._window_update[2], self._window_stuck
            phase.extra["updates"] = phase.extra.get("updates", 0) + 1
        for loop in self._window_loops:
            if loop.value is not None:
                phase.loops.setdefault(loop.key, LoopCount(loop.count)).seen.append((phase.made, loop.value))
        phase.made += 1
        if len(phase.steps) < FIRST_ALONE:
            for one in self._asked:
                owner = one.network.module()
                one.kept |= owner is not None and self._tape.outlives(owner, one.classes)
        phase.steps.append(step)
        return phase

    def _begin_phase(self) -> Phase:
        """From here on other parameters learn, or they learn from a teacher."""
        for phase in self.phases[-1:]:
            phase.finished = True
        self._trained |= self._learners
        self.phases.append(Phase(len(self.phases)))
        self._phase_optimizers = weakref.WeakSet()
        self._learners = {}
        self._teachers = set()
        self._networks.clear()
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
        self._learners |= parameters
        for each in optimizers:
            if each not in self._phase_optimizers:
                phase.extra["optimizers"] = phase.extra.get("optimizers", 0) + 1
            self._phase_optimizers.add(each)
        step = Step(phase.made, phase.epochs, events=list(self._window_events))
        step.learning_rate = max((_rate(each) for each in optimizers), default=0.0)
        rates = [g.get(key, 0.0) for each in optimizers for g in each.param_groups for key in ("initial_lr", "max_lr")]
        step.base_rate = max((float(rate) for rate in rates), default=0.0)
        step.optimizer = type(optimizers[0]).__name__ if optimizers else ""
        self._fill(step, keep_tape)
        return step

    def _begins_phase(self, phase: Phase, optimizers: Sequence[Any], parameters: set[int]) -> bool:
        """Whether other parameters learn now than did in a phase: a new optimizer holds some that it did not train."""
        if any(each in self._phase_optimizers for each in optimizers):
            return False
        # Of several optimizers that step in turns, the second comes right after the first.
        in_turns = phase.made <= 2 and not self._trained.keys() & parameters and not parameters & self._learners.keys()
        return not (parameters <= self._learners.keys() or in_turns)

    def _meant_to_step(self) -> list[torch.optim.Optimizer]:
        """Where no optimizer stepped: those that hold what the losses' gradients reach."""
        gradients = 0
        for raw, _, _ in self._window_backwards:
            gradients |= raw.gradient
        reached = facts.bits(gradients, self._tape.sources)
        parameters = {id(p) for s in reached if s.call is not None for p in s.call.module.parameters()}
        parameters |= {id(s.tensor) for s in reached if s.kind == "parameter"}
        return [
            each
            for each in self._optimizers
            if parameters & {id(p) for group in each.param_groups for p in group["params"]}
        ]

    def _is_learner(self, source: Source) -> bool:
        if source.kind == "parameter":
            return id(source.tensor) in self._learners
        call = source.call
        if call is None:
            return source.kind == "inside" and source.tensor.requires_grad
        return source.tensor.requires_grad and self._held(call.module) > 0 and self._side(call.module) != "teacher"

    def _side(self, module: nn.Module) -> Role:
        for role, modules in self._named.items():
            if any(module is each or any(module is inner for inner in each.modules()) for each in modules):
                return "teacher" if role == "teacher" else "student"
        return "none"

    def _parameters(self, module: nn.Module) -> list[nn.Parameter]:
        found = self._window_parameters.get(id(module))
        if found is None:
            found = self._window_parameters[id(module)] = list(module.parameters())
        return found

    def _held(self, module: nn.Module) -> float:
        parameters = [p for p in self._parameters(module) if p.requires_grad]
        held = sum(p.numel() for p in parameters if id(p) in self._learners)
        return held / max(1, sum(p.numel() for p in parameters))

    def _held_parameters(self, call: Call) -> set[int]:
        return {id(p) for p in self._parameters(call.module) if p.requires_grad and id(p) in self._learners}

    def _is_cut(self, source: Source) -> bool:
        """Whether something of a network that learns was cut off from its gradient before it was given out."""
        call = source.call
        return (
            call is not None
            and call.grad
            and source.tensor.is_floating_point()
            and not source.tensor.requires_grad
            and self._held(call.module) > 0
            and self._side(call.module) != "teacher"
        )

    def _cut_bits(self) -> int:
        return sum(1 << index for index, source in enumerate(self._tape.sources) if self._is_cut(source))

    def _fill(self, step: Step, keep_tape: bool) -> None:
        tape = self._tape
        learners = 0
        for index, source in enumerate(tape.sources):
            # What is computed from the student's output, by a projector that nobody trains, is the student's side, too.
            derived = source.call is not None and source.tensor.requires_grad and source.call.sources & learners
            if derived or self._is_learner(source):
                learners |= 1 << index
        learners, teachers = self._roles(learners)
        reached: set[int] = set()
        reads = gradients = 0
        for raw, _, _ in self._window_backwards:
            reached |= set(raw.nodes)
            reads |= raw.sources
            gradients |= raw.gradient
        made: dict[int, CallFacts] = {}
        used = reads
        # A loss may have been computed from calls of the window before: two optimizers step in turns after one pass.
        own_calls = set(map(id, tape.calls))
        earlier = [
            call for i in sorted(reached) if (call := tape.nodes[i].call) is not None and id(call) not in own_calls
        ]
        calls = [*earlier, *tape.calls]
        owns = self._own_bits()
        for call in reversed(calls):
            if owns.get(id(call), 0) & used:
                used |= call.sources
        for call in calls:
            own = owns.get(id(call), 0)
            made[id(call)] = self._call_facts(call, own, reads, gradients)
            made[id(call)].used = bool(own & used)
            # A network that answers twice, once as a target, is a student all the same.
            made[id(call)].role = "student" if own & learners else "teacher" if own & teachers else "none"
            step.calls.append(made[id(call)])
            if own & reads and not made[id(call)].held:
                self._teachers.add(id(call.module))
            if not call.grad and not own & used:
                self._note_asked(call.module, call.inputs, call.outputs, call)
        for raw, value, finite in self._window_backwards:
            step.backwards.append(self._backward_facts(raw, value, finite, learners, teachers, made))
        self._reached |= reached
        if not keep_tape:
            # With the tape kept, what did not go backward yet may do so in the next window.
            step.lost_terms = facts.lost_terms(tape, self._reached, learners, teachers)
        if self._window_clipped is not None:
            step.clipped_share, foreign = self._window_clipped
            owners = (c.module for c in tape.calls if foreign & {id(p) for p in c.module.parameters()})
            step.clipped_for = next((self._network(each) for each in owners), None)
        step.escaped = bool(tape.escaped)
        step.gradients = frozenset(self._window_gradients)
        step.clips_others = bool(self._window_clips) and not any(self._window_clips)
        step.pulled = self._pulled_targets()
        for call, graded in self._window_graded:
            flows = any(each.gradient for each in step.calls if each.network is self._network(call.module))
            left_out = self._left_out(call, graded) if flows else None
            if left_out is not None:
                step.left_out.append(left_out)
            frozen = self._frozen(call)
            if flows and frozen is not None:
                step.left_out.append(frozen)

    def _own_bits(self) -> dict[int, int]:
        """By the identity of a call, the bits of its outputs and inner activations."""
        found: dict[int, int] = {}
        for i, source in enumerate(self._tape.sources):
            if source.call is not None:
                found[id(source.call)] = found.get(id(source.call), 0) | 1 << i
        return found

    def _roles(self, learners: int) -> tuple[int, int]:
        """Which sources are the student's, and which are a teacher's or stored answers."""
        tape = self._tape
        teachers = 0
        for index, source in enumerate(tape.sources):
            bit = 1 << index
            if source.kind == "network" and not learners & bit:
                call = source.call
                assert call is not None
                if not call.sources & learners or not call.grad or not source.tensor.requires_grad:
                    teachers |= bit
            elif source.kind == "inside" and source.call is not None and not source.tensor.requires_grad:
                # What a hook detached is no target, as an activation that has no gradient by itself may be.
                cut = source.derived and self._is_cut(source)
                teachers |= bit if not cut or self._are_answers(source) else 0
            elif source.kind == "constant" and self._are_answers(source):
                teachers |= bit
        both = self._taught_teacher(learners, teachers)
        return learners & ~both, teachers | both

    def _taught_teacher(self, learners: int, teachers: int) -> int:
        """Sources with a gradient that are a teacher all the same: targets of a divergence, in no labels' term."""
        tape = self._tape
        nodes = [tape.nodes[i] for raw, _, _ in self._window_backwards for i in raw.nodes]
        groups: dict[int, int] = {}
        for index, source in enumerate(tape.sources):
            if learners >> index & 1 and source.call is not None:
                groups[id(source.call.module)] = groups.get(id(source.call.module), 0) | 1 << index
        if len(groups) < 2 or teachers:
            return 0
        targets = labelled = 0
        for node in nodes:
            if node.call is not None:
                continue
            if node.name == "kl_div":
                target = node.argument(1, "target")
                targets |= tape.bits(target)[1]
                labelled |= tape.bits(node.inputs[0])[0]
            elif node.name in ("cross_entropy", "nll_loss"):
                labelled |= tape.bits(node.inputs[0])[0]
        found = 0
        for module, mask in groups.items():
            known = next(s.call.module for s in tape.sources if s.call is not None and id(s.call.module) == module)
            trained = any(_is_in(self._trained, p) for p in known.parameters())
            if not mask & labelled and (mask & targets or (trained and labelled)):
                found |= mask
        return found

    def _pulled_targets(self) -> list[tuple[Network, str | None]]:
        """Networks that learn and that a divergence pulls towards another, whose target they are; not the other way."""
        tape = self._tape

        def networks(tensor: Tensor) -> list[nn.Module]:
            calls = (source.call for source in facts.bits(tape.bits(tensor)[1], tape.sources))
            return [call.module for call in calls if call is not None and self._held(call.module) > 0]

        pairs = []
        for node in (tape.nodes[i] for raw, _, _ in self._window_backwards for i in raw.nodes):
            if node.call is None and node.name == "kl_div":
                target, predicted = node.argument(1, "target"), node.inputs[0]
                places = [(a, b) for a in networks(target) for b in networks(predicted) if a is not b]
                pairs += [(a, b, str(node.place) if node.place else None) for a, b in places]
        both = {(a, b) for a, b, _ in pairs}
        return [(self._network(a), place) for a, b, place in pairs if (b, a) not in both]

    def _are_answers(self, source: Source) -> bool:
        """Whether a stored tensor looks like a teacher's answers: of the shape of a student's logits, and no labels."""
        tensor = source.tensor
        if not tensor.is_floating_point() or tensor.dim() < 2 or tensor.shape[-1] < 2:
            return False
        if source.earlier and any(not self._held(call.module) for call in source.earlier):
            return True
        shapes = {
            s.tensor.shape for s in self._tape.sources if s.kind in ("network", "inside") and s.tensor.requires_grad
        }
        if tensor.shape not in shapes:
            return False
        rows = tensor.detach().reshape(-1, tensor.shape[-1])[:64].float()
        if facts._simplex(rows):
            # One-hot, smoothed and mixed labels hold few values in a row; a teacher's probabilities many.
            return tensor.shape[-1] > 4 and all(len(set(row.tolist())) > 4 for row in rows[:8])
        return bool(rows.std() > 0) or not bool(rows.any())

    def _call_facts(self, call: Call, own: int, reads: int, gradients: int) -> CallFacts:
        module = call.module
        parameters = self._parameters(module)
        held = [p for p in parameters if id(p) in self._learners]
        return CallFacts(
            network=self._network(module),
            place=str(call.place) if call.place else None,
            training=call.training,
            grad=call.grad,
            live=frozenset(call.live),
            still=frozenset(call.still),
            held=self._held(module),
            frozen=not any(p.requires_grad for p in parameters),
            from_networks=tuple(self._network(each.module) for each in self._tape.networks(call.sources)),
            reaches_loss=bool(own & reads),
            gradient=bool(own & gradients),
            inputs=facts.sample_rows(call.inputs, self._window_samples),
            outputs=tuple(tuple(each.shape) for each in call.outputs),
            version=sum(t._version for t in (*parameters, *module.buffers())),
            shared=sum(p.numel() for p in held) / max(1, sum(p.numel() for p in parameters)),
            shared_version=sum(p._version for p in held),
            prints=frozenset(facts.row_prints(call.inputs[0]))
            if own & gradients and call.inputs and len(self.phases[-1].steps) < FIRST_ALONE and call.inputs[0].dim() > 1
            else frozenset(),
        )

    def _backward_facts(
        self,
        raw: facts.Raw,
        value: float | None,
        finite: bool,
        learners: int,
        teachers: int,
        made: dict[int, CallFacts],
    ) -> BackwardFacts:
        tape = self._tape
        # Some steps say what the loss is as a function.
        done = len(self.phases[-1].steps)
        as_function = done < 4 or done % 5 == 0
        answers, student, teacher = facts.answers(tape, raw, learners, teachers, as_function=as_function)
        labels = []
        if answers is not None:
            answers.student_call = made.get(id(student.call)) if student is not None else None
            if teacher is not None:
                origin = (teacher.call,) if teacher.call is not None else teacher.earlier
                answers.teacher_origin = tuple(dict.fromkeys(self._network(call.module) for call in origin))
                answers.teacher_call = made.get(id(teacher.call)) if teacher.call is not None else None
                asked = sum(call.module is each.module for call in tape.calls for each in origin[:1])
                if asked > 2 * max(1, len(self._window_backwards)) + 1:
                    # All answers were made before the first step, in the same window.
                    answers.stored, answers.teacher_call = True, None
        for node in (tape.nodes[i] for i in raw.nodes):
            labels += [t for t in node.inputs if not t.is_floating_point() and t.dtype is not torch.bool]
        scaled = any(name == "scaler.scale" for name, _ in self._window_events)
        summands = facts.summands(tape, raw.loss)
        students = learners | self._cut_bits()
        terms = [facts.term(tape, summand, learners, teachers, labels, students) for summand in summands]
        trained = facts.trained_parameters(tape, raw.gradient, self._held_parameters)
        for summand, term in zip(summands, terms, strict=True):
            gradient = tape.bits(summand.tensor)[1]
            cut = facts.cut_off(tape, gradient, learners, teachers, self._held_parameters, trained)
            if cut is not None:
                term.cut_off = self._network(cut[0].module), self._network(cut[1].module)
        return BackwardFacts(
            place=raw.place,
            value=value,
            terms=terms,
            answers=answers,
            oddities=facts.oddities(tape, raw, learners, teachers),
            reads_teacher=bool(raw.sources & teachers),
            not_finite=facts.not_finite(tape, raw),
            gradient_finite=finite,
            half=facts.half_operations(tape, raw),
            vanished=facts.vanished(tape, raw),
            scaled=scaled,
        )

    def _left_out(self, call: Call, graded: dict[str, nn.Parameter]) -> LeftOut | None:
        module = call.module
        missing = {n: p for n, p in graded.items() if p.requires_grad and id(p) not in self._learners}
        if not missing:
            return None
        network = self._network(module)
        sources = self._tape.networks(call.sources)
        learner = self._held(module) > 0
        from_student = any(self._held(each.module) > 0 for each in sources)
        role: Role = "student" if learner or from_student or sources else "teacher"
        every = dict(_all_parameters(module)).values()
        share = sum(p.numel() for p in missing.values()) / max(1, sum(p.numel() for p in every))
        fresh = any(self._is_fresh(each) for each in missing.values())
        where = str(call.place) if call.place else None
        return LeftOut(network, tuple(missing), share, role, where, False, fresh)

    def _frozen(self, call: Call) -> LeftOut | None:
        """Parameters of a network that learns which an optimizer holds and which require no gradient."""
        held = [p for p in self._parameters(call.module) if id(p) in self._learners]
        if not held or all(p.requires_grad for p in held):
            return None
        frozen = {n: p for n, p in call.module.named_parameters() if id(p) in self._learners and not p.requires_grad}
        share = sum(p.numel() for p in frozen.values()) / sum(p.numel() for p in self._parameters(call.module))
        fresh = all(self._is_fresh(each) for each in frozen.values())
        where = str(call.place) if call.place else None
        return LeftOut(self._network(call.module), tuple(frozen), share, "student", where, True, fresh)

    def _is_fresh(self, parameter: Tensor) -> bool:
        """Whether a parameter was neither trained nor loaded, nor copied from one that was."""
        if _is_in(self._trained, parameter) or _is_in(self._loaded, parameter):
            return False
        others = (reference() for known in (self._trained, self._loaded) for reference in known.values())
        return not any(
            each is not None and each.shape == parameter.shape and torch.equal(each, parameter) for each in others
        )


_current: Watch | None = None


def current() -> Watch | None:
    """The audit that is running in this process."""
    return _current


def _in_child() -> None:
    if _current is not None:
        _current.disown()


os.register_at_fork(after_in_child=_in_child)


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


def _all_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
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


def _is_compiled(module: nn.Module) -> bool:
    return type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None


def _stuck(parameters: Sequence[Tensor], before: Sequence[Tensor]) -> float | None:
    """Of parameters in 16 bits, the share of numbers with a gradient that a step left as they were; None of others."""
    alike = count = 0
    for parameter, old in zip(parameters, before, strict=True):
        if parameter.dtype in (torch.float16, torch.bfloat16) and parameter.grad is not None:
            moving = parameter.grad.flatten()[:UPDATE_NUMBERS] != 0
            alike += int((moving & (parameter.detach().flatten()[:UPDATE_NUMBERS] == old)).sum())
            count += int(moving.sum())
    return alike / count if count else None


def _has_gradient(optimizer: torch.optim.Optimizer) -> bool:
    """Whether some parameter of an optimizer has a gradient that is not 0."""
    given = (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
    return any(bool(each.any()) for each in given)


def _rate(optimizer: Any) -> float:
    return max((float(group["lr"]) for group in optimizer.param_groups if "lr" in group), default=0.0)


def _is_in(known: dict[int, weakref.ref[Tensor]], tensor: Tensor) -> bool:
    reference = known.get(id(tensor))
    return reference is not None and reference() is tensor


def _horizon(scheduler: Any) -> tuple[int | None, int | None]:
    """How many steps a scheduler is made for, and after how many the rate has come to its end."""
    name = type(scheduler).__name__
    gamma = float(getattr(scheduler, "gamma", None) or 0.0)
    falls = 0 < gamma < 1
    milestones = getattr(scheduler, "milestones", None)
    if falls and milestones:
        return int(max(milestones)), int(max(milestones))
    if falls and name in ("StepLR", "ExponentialLR"):
        size = getattr(scheduler, "step_size", 1)
        return None, math.ceil(math.log(1e-3) / math.log(gamma)) * size
    for attribute in ("total_steps", "T_max", "T_0", "total_iters"):
        period = getattr(scheduler, attribute, None)
        if isinstance(period, int):
            ends = name in ("CosineAnnealingLR", "PolynomialLR", "OneCycleLR")
            ends |= name == "LinearLR" and scheduler.end_factor < scheduler.start_factor
            return period, period if ends else None
    return None, None


def _last(names: Sequence[str], wanted: str) -> int:
    return max((i for i, name in enumerate(names) if name == wanted), default=0)


__all__ = ["CodeLine", "StopScript", "Tensor", "Watch", "current"]
