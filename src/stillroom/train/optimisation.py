"""The optimizer, and the learning rate as a pure function of the step, without scheduler state."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from stillroom.errors import BadInput, format_error
from stillroom.models.modes import copy_model
from stillroom.train.config import OptimizerConfig, ScheduleConfig

# One-cycle starts at 1/25 of the peak and ends at 1/25 · 1e-4 of it, as in Smith & Topin (arXiv 1708.07120).
_START, _END = 1 / 25, 1 / 25e4


def build_optimizer(modules: Iterable[nn.Module], config: OptimizerConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over the trainable parameters of the modules, in their order.

    Args:
        modules: the student, then other modules with parameters (connectors, losses).
        config: its options; without ``decay_vectors`` tensors of fewer than two dimensions are not decayed.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    decayed = [p for p in parameters if config.decay_vectors or p.dim() > 1]
    plain = [p for p in parameters if not (config.decay_vectors or p.dim() > 1)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}]
    if plain:
        groups.append({"params": plain, "weight_decay": 0.0})
    if config.name == "adamw":
        return _without_compiler(torch.optim.AdamW)(groups, lr=config.lr, betas=config.betas, fused=True)
    nesterov = config.nesterov and config.momentum > 0
    sgd = _without_compiler(torch.optim.SGD)
    return sgd(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov, fused=True)


def _without_compiler(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """The same optimizer, whose methods do not import ``torch._dynamo``.

    Torch wraps them so that a compiled function leaves them out; the import takes seconds in each process, and our step
    calls them outside of what it compiles.
    """
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), methods)


Parameters = Sequence[nn.Parameter]


@dataclass(frozen=True)
class OwnOptimisation:
    """Functions of a user's that make optimizer and scheduler; what is None is the recipe's."""

    # Makes it of the parameters: the student's, then those of connectors and losses.
    optimizer: Callable[[Parameters], torch.optim.Optimizer] | None = None
    # Makes it of the optimizer; stepped after every optimizer step.
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None

    def make_optimizer(self, modules: Iterable[nn.Module], config: OptimizerConfig) -> torch.optim.Optimizer:
        """The optimizer of some modules; BadInput where the user's function makes none that can be used."""
        if self.optimizer is None:
            return build_optimizer(modules, config)
        if isinstance(self.optimizer, torch.optim.Optimizer) or not callable(self.optimizer):
            expected = "a function that makes it of the copy that is trained: lambda params: torch.optim.Adam(params)"
            raise BadInput("optimizer", type(self.optimizer).__name__, expected)
        given = [p for module in modules for p in module.parameters() if p.requires_grad]
        try:
            made = self.optimizer(list(given))
        except Exception as error:  # a user's function can fail in any way
            expected = f"a function that makes an optimizer of parameters; it raised {format_error(error)}"
            raise BadInput("optimizer", self.optimizer, expected) from None
        if not isinstance(made, torch.optim.Optimizer) or isinstance(made, torch.optim.LBFGS):
            expected = "a function that makes a torch.optim.Optimizer whose step takes no closure"
            raise BadInput("optimizer", type(made).__name__, expected)
        held = {id(p) for group in made.param_groups for p in group["params"]}
        if others := len(held - {id(p) for p in given}):
            expected = (
                f"an optimizer of the parameters that the function is given; {others} of its {len(held)} are others"
            )
            raise BadInput("optimizer", type(made).__name__, f"{expected}: a copy of the student is trained")
        if missing := len({id(p) for p in given} - held):
            expected = f"an optimizer of all parameters that the function is given; it lacks {missing} of {len(given)}"
            raise BadInput(
                "optimizer", type(made).__name__, f"{expected}: requires_grad_(False) keeps some as they are"
            )
        return made

    def make_scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        """The user's scheduler of an optimizer; None where there is none.

        Raises:
            BadInput: the user's function makes none that can be used.
        """
        if self.scheduler is None:
            return None
        if not callable(self.scheduler) or isinstance(self.scheduler, LRScheduler):
            expected = "a function that makes it of the optimizer: lambda optimizer: StepLR(optimizer, 100)"
            raise BadInput("scheduler", type(self.scheduler).__name__, expected)
        try:
            made = self.scheduler(optimizer)
        except Exception as error:  # a user's function can fail in any way
            expected = f"a function that makes a scheduler of an optimizer; it raised {format_error(error)}"
            raise BadInput("scheduler", self.scheduler, expected) from None
        if isinstance(made, ReduceLROnPlateau):
            expected = "a scheduler of steps: this one would be driven by the test split, or by a noisy loss"
            raise BadInput("scheduler", "ReduceLROnPlateau", expected)
        if not all(callable(getattr(made, name, None)) for name in ("step", "state_dict", "load_state_dict")):
            expected = "a function that makes a scheduler with step, state_dict and load_state_dict"
            raise BadInput("scheduler", type(made).__name__, expected)
        return made

    def describe(self, student: nn.Module) -> tuple[dict[str, Any], dict[str, str]]:
        """Options of ``training`` that say what the functions make of the student, and their classes by name.

        Raises:
            BadInput: a function makes nothing that can be used.
        """
        options: dict[str, Any] = {}
        classes: dict[str, str] = {}
        optimizer = self.make_optimizer([student], OptimizerConfig())
        if self.optimizer is not None:
            group = optimizer.param_groups[0]
            known = {key: group.get(key) for key in ("lr", "momentum", "weight_decay", "nesterov")}
            read = {key: float(value) for key, value in known.items() if value is not None and float(value) > 0}
            nesterov = bool(read.pop("nesterov", 0))
            options["optimizer"] = {"name": "custom", "momentum": 0, "weight_decay": 0, **read, "nesterov": nesterov}
            options["schedule"] = {"name": "constant"}
            classes["optimizer"] = _path(optimizer)
        scheduler = self.make_scheduler(optimizer)
        if scheduler is not None:
            options["schedule"] = {"name": "custom"}
            classes["scheduler"] = _path(scheduler)
        return options, classes


def _path(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def lr_factor(config: ScheduleConfig, step: int, total: int) -> float:
    """The learning rate of a step as a fraction of its peak.

    Args:
        config: the schedule.
        step: optimizer steps done before this one, 0 … total−1.
        total: the run's length in steps.

    Returns:
        one_cycle: cosine from 1/25 to 1 over the warm-up, then cosine to 4e-6; cosine: ½(1 + cos πx) after the
        warm-up; multi_step: gamma^(milestones passed); constant: 1. A warm-up of the last three is linear.

    >>> [round(lr_factor(ScheduleConfig(name="cosine"), s, 4), 3) for s in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    >>> round(lr_factor(ScheduleConfig(), 0, 10), 3), lr_factor(ScheduleConfig(), 3, 10)
    (0.04, 1.0)
    """
    done = step / total
    warmup = config.warmup if config.warmup is not None else (0.3 if config.name == "one_cycle" else 0.0)
    if config.name == "one_cycle":
        if done < warmup:
            return _cosine(_START, 1.0, done / warmup)
        return _cosine(1.0, _END, (done - warmup) / (1 - warmup))
    if done < warmup:
        # The first step has a rate above 0: step 0 of n warm-up steps has 1/n of the peak.
        return min(1.0, (step + 1) / (warmup * total))
    if config.name == "cosine":
        return _cosine(1.0, 0.0, (done - warmup) / (1 - warmup))
    if config.name == "multi_step":
        passed = sum(done >= milestone for milestone in config.milestones)
        return float(config.gamma**passed)
    return 1.0


def momentum_at(config: ScheduleConfig, step: int, total: int) -> float | None:
    """The momentum of a step of one_cycle, by the same cosines as its rate; None where the schedule leaves it alone.

    >>> [round(momentum_at(ScheduleConfig(momentum=(0.85, 0.95)), step, 10), 3) for step in (0, 3, 9)]
    [0.95, 0.85, 0.945]
    """
    if config.momentum is None:
        return None
    low, high = config.momentum
    done, warmup = step / total, 0.3 if config.warmup is None else config.warmup
    if done < warmup:
        return _cosine(high, low, done / warmup)
    return _cosine(low, high, (done - warmup) / (1 - warmup))


def full_rate_steps(config: ScheduleConfig, total: int) -> float:
    """The equivalent number of steps at the peak rate: Σ of the schedule's factors over the run.

    >>> full_rate_steps(ScheduleConfig(name="constant"), 10), round(full_rate_steps(ScheduleConfig(), 1000))
    (10.0, 506)
    """
    # A thousand samples suffice for a long run.
    each = max(total // 1000, 1)
    places = range(0, total, each)
    return total * sum(lr_factor(config, step, total) for step in places) / max(len(places), 1)


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


def apply_schedule(
    optimizer: torch.optim.Optimizer, rates: Sequence[Any], config: ScheduleConfig, step: int, total: int
) -> None:
    """Set the learning rate of each parameter group for a step, from its peak rate, and the momentum where it moves."""
    factor, momentum = lr_factor(config, step, total), momentum_at(config, step, total)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * factor
        if momentum is not None:
            group["momentum"] = momentum


class MovingAverage:
    """An exponential moving average of a model's weights and buffers: a ← decay·a + (1 − decay)·x.

    The first update copies; whole numbers, such as a count of batches, are copied by each. Unlike torch's own
    ``AveragedModel`` it counts in Python: a counter on the device makes every step wait for it.

    Args:
        model: what is averaged.
        decay: in [0, 1).
        copies_first: the first update copies; else it averages with the weights that the model began with.

    Attributes:
        module: a model that holds the average.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> average = MovingAverage(net, decay=0.5)
    >>> for weight in (1.0, 3.0):
    ...     _ = nn.init.constant_(net.weight, weight)
    ...     average.update()
    >>> average.module.weight.item()
    2.0
    """

    def __init__(self, model: nn.Module, decay: float, *, copies_first: bool = True) -> None:
        self.module = copy_model(model)
        self._decay = decay
        self._updates = 0 if copies_first else 1
        pairs = zip(_tensors(self.module), _tensors(model), strict=True)
        self._whole: list[tuple[Tensor, Tensor]] = []
        self._floats: dict[tuple[torch.dtype, torch.device], tuple[list[Tensor], list[Tensor]]] = {}
        for average, current in pairs:
            if average.is_floating_point():
                averages, currents = self._floats.setdefault((average.dtype, average.device), ([], []))
                averages.append(average)
                currents.append(current)
            else:
                self._whole.append((average, current))

    @torch.no_grad()
    def update(self) -> None:
        """Update with the model's current weights."""
        for averages, currents in self._floats.values():
            if self._updates:
                torch._foreach_lerp_(averages, currents, 1 - self._decay)
            else:
                torch._foreach_copy_(averages, currents)
        for average, current in self._whole:
            average.copy_(current)
        self._updates += 1

    def state_dict(self) -> dict[str, Any]:
        """The average and its number of updates."""
        return {"updates": self._updates, "module": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved average."""
        self._updates = state["updates"]
        self.module.load_state_dict(state["module"])


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
