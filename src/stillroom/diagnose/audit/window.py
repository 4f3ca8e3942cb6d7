"""What is seen of a loop between two steps of its optimizers, before it is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from stillroom.diagnose.audit import facts
from stillroom.diagnose.audit.networks import all_parameters
from stillroom.diagnose.audit.source import CountedLoop
from stillroom.diagnose.audit.tape import Call
from stillroom.diagnose.audit.updates import Update
from stillroom.diagnose.checks.loop.record import Averaging, Decay


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


@dataclass(frozen=True)
class Requested:
    """A loss whose gradients were asked of ``torch.autograd.grad``."""

    raw: facts.Raw
    value: float
    parameters: frozenset[int]  # by id: those whose gradients were asked for
    ends: int  # the tape's length then


@dataclass(eq=False)
class Window:
    """The events, losses and gradients since the last step."""

    # Losses that went backward: as they are on the tape, their values, whether all gradients were finite afterwards.
    backwards: list[tuple[facts.Raw, float | None, bool]] = field(default_factory=list)
    requested: list[Requested] = field(default_factory=list)  # as long as nobody knows what their gradients are for
    optimizers: list[torch.optim.Optimizer] = field(default_factory=list)  # those that stepped
    events: list[tuple[str, str | None]] = field(default_factory=list)  # see Step.events
    # Parameters that have a gradient, by the outermost module that holds them.
    graded: list[tuple[Call, dict[str, nn.Parameter]]] = field(default_factory=list)
    gradients: set[str] = field(default_factory=set)  # see Step.gradients
    # Optimizers, by id: those whose parameters got gradients, and those whose gradients were cleared since the last
    # backward.
    fresh: set[int] = field(default_factory=set)
    cleared: set[int] = field(default_factory=set)
    clips: list[bool] = field(default_factory=list)  # for each clipping, whether it clips something that learns
    clipped: tuple[float, set[int]] | None = None  # foreign gradients' share of the squared norm, and whose they are
    loops: list[CountedLoop] = field(default_factory=list)  # the loops around the step
    update: Update | None = None  # of the optimizer that is stepping
    changed: tuple[float | None, float | None] | None = None  # see Step.update and Step.stuck
    decay: Decay | None = None
    averaging: Averaging | None = None
    samples: dict[int, Tensor] = field(default_factory=dict)  # copies of inputs' first rows
    # Networks that were seen whole, and in which way they were run; whether one was run past the tape.
    whole: dict[nn.Module, tuple[Familiar, Any, Call]] = field(default_factory=dict)
    passed: bool = False
    ends: int = 0  # the tape's length at the last backward
    closing: bool = False  # an optimizer stepped: what comes next is another step
    tail: int | None = None  # the tape's length when it did
    stepping: bool = False  # an optimizer is inside its step
    partial: bool = False  # it began in the middle of a step, and is not judged

    @property
    def names(self) -> list[str]:
        """The names of the events."""
        return [name for name, _ in self.events]

    def take_requested(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether the optimizer's gradients come from ``torch.autograd.grad``: its losses went backward, then."""
        given = {id(p) for group in optimizer.param_groups for p in group["params"] if p.grad is not None}
        mine = [each for each in self.requested if each.parameters & given]
        if not given or given - frozenset().union(*(each.parameters for each in mine)):
            return False
        for each in mine:
            self.events.append(("backward", each.raw.place))
            self.backwards.append((each.raw, each.value, True))
            self.ends = each.ends
        return True

    def note_gradients(self, calls: Sequence[Call]) -> None:
        """List the parameters of the networks that have a gradient."""
        seen: set[int] = set()
        for call in calls:
            # What ran without gradients gave none.
            if id(call.module) not in seen and call.grad:
                seen.add(id(call.module))
                self.graded.append((call, {n: p for n, p in all_parameters(call.module) if p.grad is not None}))

    def note_clipped(self, parameters: Sequence[Any], learners: dict[int, Any]) -> None:
        """Gradients are clipped: some may be clipped with the others, and no optimizer uses them."""
        graded = [p for p in parameters if p.grad is not None and not p.grad.is_sparse]
        self.clips.append(any(id(p) in learners for p in parameters))
        foreign = [p for p in graded if id(p) not in learners]
        if foreign:
            own, whole = (
                float(torch.stack(torch._foreach_norm([p.grad for p in each])).square().sum())
                for each in (foreign, graded)
            )
            self.clipped = own / max(whole, 1e-30), {id(p) for p in foreign}


def holds_gradients(optimizer: torch.optim.Optimizer) -> bool:
    """Whether some parameter of an optimizer has a gradient, be it 0."""
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])


def has_gradient(optimizer: torch.optim.Optimizer) -> bool:
    """Whether some parameter of an optimizer has a gradient that is not 0."""
    given = (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
    return any(bool(each.any()) for each in given)
