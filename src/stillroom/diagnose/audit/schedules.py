"""Learning-rate schedulers that a script makes, and how often it steps them."""

from __future__ import annotations

import math
import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from stillroom.diagnose.audit.tape import place
from stillroom.diagnose.checks.loop.record import Schedule

# Steps of an optimizer whose rate is kept: the first ones, and some later ones.
FIRST_RATES = 16
LATER = frozenset(int(base * 2**power) for power in range(4, 24) for base in (1, 1.5))
# Numbers given to a scheduler that are kept; so many are waited for where the first ones go the wrong way.
MOST_METRICS, ENOUGH_METRICS = 200, 8


@dataclass(eq=False)
class _Made:
    """A scheduler that was made."""

    scheduler: weakref.ref[Any]
    optimizer: weakref.ref[Any]
    facts: Schedule


class Schedules:
    """The schedulers of a script, with what was seen of each."""

    def __init__(self) -> None:
        self._made: dict[int, _Made] = {}
        self._stepping: Any = None

    def begin(self, scheduler: Any, optimizer: Any) -> None:
        """A scheduler is being made: its ``__init__`` may step it."""
        where = place(2)
        schedule = Schedule(type(scheduler).__name__, str(where) if where else None, None)
        self._made[id(scheduler)] = _Made(weakref.ref(scheduler), weakref.ref(optimizer), schedule)

    def end(self, scheduler: Any) -> None:
        """Its ``__init__`` has returned."""
        schedule = self._made[id(scheduler)].facts
        schedule.steps = 0
        schedule.period, schedule.over_at = _horizon(scheduler)
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            schedule.mode = scheduler.mode

    def begin_step(self, scheduler: Any, metric: Any = None) -> Any:
        """``step`` of a scheduler is called, with a number or none; gives what :meth:`end_step` is to be given."""
        for each in getattr(scheduler, "_schedulers", ()):
            # One that steps others, each in its time: what it has not come to is not forgotten.
            self._made.pop(id(each), None)
        found = self._made.get(id(scheduler))
        if found is not None:
            found.facts.steps += 1
            if found.facts.mode and metric is not None and len(found.facts.metrics) < MOST_METRICS:
                with suppress(TypeError, ValueError, RuntimeError):  # no number: the step itself says so
                    found.facts.metrics.append((float(metric), rate(scheduler.optimizer)))
            if found.facts.step_place is None or found.facts.steps < 3:
                where = place(2)
                found.facts.step_place = str(where) if where else None
        before, self._stepping = self._stepping, scheduler
        return before

    def end_step(self, before: Any) -> None:
        """``step`` has returned."""
        self._stepping = before

    def is_stepping(self, scheduler: Any) -> bool:
        """Whether a scheduler is inside its own ``step``, which may call that of a class below."""
        return scheduler is self._stepping

    def note_step(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer made a step."""
        for made in self._made.values():
            if made.optimizer() is optimizer:
                schedule = made.facts
                schedule.optimizer_steps += 1
                count = schedule.optimizer_steps
                if count <= FIRST_RATES or count in LATER:
                    schedule.rates.append((count, rate(optimizer)))
                return

    @property
    def awaits(self) -> bool:
        """Whether the first numbers that a scheduler was given seem to go the wrong way."""
        for made in self._made.values():
            metrics = [value for value, _ in made.facts.metrics]
            if made.optimizer() is None or not metrics or len(metrics) >= ENOUGH_METRICS:
                continue
            if len(metrics) > 1:
                going = metrics[-1] < metrics[0] if made.facts.mode == "min" else metrics[-1] > metrics[0]
            else:
                # Of one number it may be an accuracy, as a share or in per cent.
                going = made.facts.mode == "max" or not (0 <= metrics[0] <= 1 or 5 <= metrics[0] <= 100)
            if not going:
                return True
        return False

    def facts(self, never: bool) -> list[Schedule]:
        """What was seen of each; ``never``: no line of the script calls a ``step`` but the optimizers'."""
        for made in self._made.values():
            made.facts.never = never and not made.facts.steps
        return [made.facts for made in self._made.values()]


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


def rate(optimizer: Any) -> float:
    """The largest learning rate of an optimizer's groups."""
    return max((float(group["lr"]) for group in optimizer.param_groups if "lr" in group), default=0.0)
