"""How parameters change: by a step, by weight decay, and between steps by a moving average."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stillroom.diagnose.checks.loop.record import Averaging, Decay
from stillroom.models.running_statistics import running_norms

# Numbers of a parameter that a step's change is measured by.
UPDATE_NUMBERS = 2**14
# Parameters, and numbers of each, that a moving average is recognised by.
AVERAGED, AVERAGED_NUMBERS = 24, 512
_HALF = (torch.float16, torch.bfloat16)


@dataclass(eq=False)
class Update:
    """Weights that have a gradient, as they are before a step."""

    parameters: list[nn.Parameter]
    before: list[Tensor]
    decay: Decay | None

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer) -> Update:
        """The weight matrices of an optimizer: of a bias that begins at 0, any step is a large share."""
        given = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        parameters = [p for p in given if p.dim() >= 2]
        before = [p.detach().flatten()[:UPDATE_NUMBERS].clone() for p in parameters]
        return cls(parameters, before, _decay(optimizer))

    def measure(self) -> tuple[float | None, float | None]:
        """After the step: the largest share that it changed a matrix by, and what share of 16-bit numbers it left."""
        if not self.before:
            return None, None
        stuck = _stuck(self.parameters, self.before)
        now = [p.detach().flatten()[:UPDATE_NUMBERS] for p in self.parameters]
        norms = [*torch._foreach_norm(torch._foreach_sub(now, self.before)), *torch._foreach_norm(self.before)]
        changed, size = torch.stack([norm.float() for norm in norms]).view(2, -1).tolist()
        shares = [a / max(b, 1e-30) if b > 0 else 0.0 for a, b in zip(changed, size, strict=True)]
        return (math.nan if any(map(math.isnan, shares)) else max(shares)), stuck


def _stuck(parameters: Sequence[Tensor], before: Sequence[Tensor]) -> float | None:
    """Of parameters in 16 bits, the share of numbers with a gradient that a step left as they were; None of others."""
    alike = count = 0
    for parameter, old in zip(parameters, before, strict=True):
        if parameter.dtype in _HALF and parameter.grad is not None:
            moving = parameter.grad.flatten()[:UPDATE_NUMBERS] != 0
            alike += int((moving & (parameter.detach().flatten()[:UPDATE_NUMBERS] == old)).sum())
            count += int(moving.sum())
    return alike / count if count else None


def _decay(optimizer: torch.optim.Optimizer) -> Decay | None:
    """The strongest weight decay of an optimizer's groups; None where there is none."""
    found: Decay | None = None
    name = type(optimizer).__name__
    for group in optimizer.param_groups:
        decay, rate = group.get("weight_decay", 0.0), group.get("lr", 0.0)
        graded = [p for p in group["params"] if p.grad is not None and not p.grad.is_sparse]
        if not graded or not isinstance(decay, int | float) or decay <= 0:
            continue
        apart = name == "AdamW" or bool(group.get("decoupled_weight_decay"))
        shrinks = float(rate) * decay if apart else None
        if name == "SGD":
            shrinks = float(rate) * decay / max(1 - group.get("momentum", 0.0), 1e-6)
        weights, gradients = (
            float(torch.stack([norm.float() for norm in torch._foreach_norm(each)]).square().sum().sqrt())
            for each in ([p.detach() for p in graded], [p.grad for p in graded if p.grad is not None])
        )
        each = Decay(float(decay), shrinks, decay * weights / max(gradients, 1e-30), float(rate))
        found = each if found is None or each.coefficient > found.coefficient else found
    return found


class Follower:
    """Two networks of one shape, of which one may be a moving average of the other.

    Args:
        teacher: the one that answers.
        student: the one that learns.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        self._parameters = [
            [weakref.ref(p) for p in module.parameters() if p.dim() >= 2][:AVERAGED] for module in (teacher, student)
        ]
        self._marked: tuple[Tensor, Tensor] | None = None
        norms = [list(map(weakref.ref, running_norms(module).values())) for module in (teacher, student)]
        self._norms = [each[:AVERAGED] for each in norms] if len(norms[0]) == len(norms[1]) else [[], []]
        self._first: list[Tensor] | None = None  # the running statistics of both when they were marked first

    def _statistics(self) -> list[Tensor]:
        """Means and variances of the running statistics, [2, N] each: the teacher's, the student's."""
        found = []
        for references in self._norms:
            norms = [norm for norm in (each() for each in references) if norm is not None]
            parts = [
                torch.cat([getattr(each, name).detach().flatten()[:AVERAGED_NUMBERS] for each in norms])
                for name in ("running_mean", "running_var")
            ]
            found.append(torch.stack(parts).double())
        return found

    def _stale(self) -> float | None:
        """How far the teacher's running statistics are from the student's, which moved on without them; else None.

        The median over channels of the larger of two distances, in standard deviations: of the means, and of the
        logarithms of the deviations.
        """
        if self._first is None:
            return None
        now = self._statistics()
        if any(a.shape != b.shape for a, b in zip(now, self._first, strict=True)) or now[0].shape != now[1].shape:
            return None
        if not torch.equal(now[0], self._first[0]) or torch.equal(now[1], self._first[1]):
            return None
        (mean, variance), (own_mean, own_variance) = now
        shift = (mean - own_mean).abs() / own_variance.clamp_min(1e-12).sqrt()
        scale = 0.5 * (variance.clamp_min(1e-12) / own_variance.clamp_min(1e-12)).log().abs()
        return float(torch.maximum(shift, scale).median())

    def _now(self) -> tuple[Tensor, Tensor] | None:
        rows = []
        for references in self._parameters:
            parameters = [p for p in (each() for each in references) if p is not None]
            if not parameters or len(parameters) < len(references):
                return None
            rows.append(torch.cat([p.detach().flatten()[:AVERAGED_NUMBERS] for p in parameters]).double())
        return rows[0], rows[1]

    def mark(self) -> None:
        """A step has been made."""
        self._marked = self._now()
        if self._first is None and all(self._norms):
            self._first = self._statistics()

    def _stuck(self, before: Tensor, now: Tensor, way: Tensor) -> float | None:
        """Of a teacher in 16 bits that moved: the share of its numbers, of those a step off, that stayed."""
        parameters = [each() for each in self._parameters[0]]
        if any(each is None or each.dtype not in _HALF for each in parameters) or torch.equal(before, now):
            return None
        # bfloat16 has eight bits of each number: what is nearer to the student than that is equal to it.
        apart = way.abs() > before.abs() / 128
        return float((now == before)[apart].double().mean()) if bool(apart.any()) else None

    def forget(self) -> None:
        """What comes next is not seen."""
        self._marked = None

    def measure(self) -> Averaging | None:
        """Before the next step: which share of the way to the other each was moved; None where that is not plain."""
        before, now, self._marked = self._marked, self._now() if self._marked is not None else None, None
        if before is None or now is None or before[0].shape != before[1].shape:
            return None
        way = before[1] - before[0]
        size = float(way.square().sum())
        if size <= 1e-12 * float(before[1].square().sum()):
            return None
        stuck = self._stuck(before[0], now[0], way)
        if stuck is not None:
            return Averaging(max(0.0, float((now[0] - before[0]) @ way) / size), 0.0, self._stale(), stuck)
        shares = []
        for old, new, towards in ((before[0], now[0], way), (before[1], now[1], -way)):
            if torch.equal(old, new):
                shares.append(0.0)
                continue
            change = new - old
            length = float(change.norm())
            share = float(change @ towards) / size
            if length and float((change - share * towards).norm()) > 0.05 * length:
                return None
            shares.append(share if length else 0.0)
        return Averaging(shares[0], shares[1], self._stale())
