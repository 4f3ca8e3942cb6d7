"""``sr.audit``: tiny loops, each with one fault, and unusual ones that are right."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Variable
from torch.utils._python_dispatch import TorchDispatchMode

from stillroom.diagnose.audit import facts
from stillroom.diagnose.audit.facts import spoken
from stillroom.diagnose.audit.networks import Networks
from stillroom.diagnose.audit.session import audit
from stillroom.diagnose.audit.tape import Tape
from stillroom.diagnose.diagnosis import Diagnosis
from stillroom.errors import BadInput

CLASSES, ROWS = 5, 20
CENTRES = 3 * torch.eye(CLASSES, 8)


class Teacher(nn.Module):
    """Right by construction: the nearest centre."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(8, CLASSES)
        with torch.no_grad():
            self.fc.weight.copy_(CENTRES)
            self.fc.bias.fill_(0.0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.dropout(x))
        return out


class Student(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU())
        self.fc = nn.Linear(width, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.body(x))
        return out


def kd(z: Tensor, t: Tensor, tau: float = 4.0) -> Tensor:
    return F.kl_div(F.log_softmax(z / tau, 1), F.softmax(t / tau, 1), reduction="batchmean") * tau**2


@dataclass
class Loop:
    """A loop as most people write it; a test replaces its parts."""

    student: nn.Module = field(default_factory=Student)
    teacher: nn.Module = field(default_factory=lambda: Teacher().eval())
    loss: Callable[[Loop, Tensor, Tensor, Tensor], Tensor] = lambda loop, z, t, y: F.cross_entropy(z, y) + kd(z, t)
    ask: Callable[[Loop, Tensor, int], Tensor] | None = None
    before: Callable[[Loop, int], None] = lambda loop, step: None
    optimizer: Callable[[Loop], torch.optim.Optimizer] = lambda loop: torch.optim.SGD(
        loop.student.parameters(), lr=0.05
    )
    step: Callable[[Loop, torch.optim.Optimizer, Tensor], None] | None = None
    steps: int = 14
    extra: Any = None

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(3)
        y = torch.randint(CLASSES, (self.steps, ROWS), generator=generator)
        return [(CENTRES[each] + 0.3 * torch.randn(ROWS, 8, generator=generator), each) for each in y]

    def run(self) -> None:
        optimizer = self.optimizer(self)
        self.student.train()
        for number, (x, y) in enumerate(self.batches()):
            self.before(self, number)
            z = self.student(x)
            if self.ask is None:
                with torch.no_grad():
                    t = self.teacher(x)
            else:
                t = self.ask(self, x, number)
            loss = self.loss(self, z, t, y)
            if self.step is not None:
                self.step(self, optimizer, loss)
                continue
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def diagnosis(self) -> Diagnosis:
        with audit() as watched:
            self.run()
        return watched.diagnosis


def problems(diagnosis: Diagnosis) -> list[str]:
    return [finding.check for finding in diagnosis.problems]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def left_out(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    if loop.extra is None:
        loop.extra = nn.Linear(CLASSES, CLASSES)
    return F.cross_entropy(z, y) + F.mse_loss(loop.extra(z), t)


def shifted(loop: Loop, x: Tensor, number: int) -> Tensor:
    """The answers of the batch before."""
    if loop.extra is None:
        with torch.no_grad():
            loop.extra = [loop.teacher(each) for each, _ in loop.batches()]
    answers: Tensor = loop.extra[number - 1]
    return answers


def softmaxed(loop: Loop, x: Tensor, number: int) -> Tensor:
    with torch.no_grad():
        out: Tensor = loop.teacher(x).softmax(1)
    return out


def with_gradient(loop: Loop, x: Tensor, number: int) -> Tensor:
    out: Tensor = loop.teacher(x)
    return out


def rolled() -> Loop:
    """A teacher whose classes are one further."""
    teacher = Teacher().eval()
    with torch.no_grad():
        teacher.fc.weight.copy_(CENTRES.roll(1, 0))
    return Loop(teacher=teacher)


def to_eval(loop: Loop, step: int) -> None:
    if step == 4:
        loop.student.eval()


def both(loop: Loop) -> torch.optim.Optimizer:
    return torch.optim.SGD([*loop.student.parameters(), *loop.teacher.parameters()], lr=0.05)


def early_clip(loop: Loop, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    (0.5 * loss).backward(retain_graph=True)
    nn.utils.clip_grad_norm_(loop.student.parameters(), 1.0)
    (0.5 * loss).backward()
    optimizer.step()


def shared() -> Loop:
    """The student takes the teacher's first layer over, not a copy of it."""
    teacher = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, CLASSES)).eval()
    with torch.no_grad():
        for layer, weight in ((teacher[0], torch.eye(8)), (teacher[2], CENTRES)):
            layer.weight.copy_(weight)
            layer.bias.fill_(0.0)
    return Loop(student=nn.Sequential(teacher[0], nn.ReLU(), nn.Linear(8, CLASSES)), teacher=teacher)


def last_term(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    total = torch.zeros(())
    for weight, term in ((0.4, F.cross_entropy(z, y)), (0.6, kd(z, t))):
        total = weight * term
    return total


def clip_both(loop: Loop, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    (loss + loop.teacher.get_parameter("fc.weight").square().sum()).backward()
    nn.utils.clip_grad_norm_([*loop.student.parameters(), *loop.teacher.parameters()], 1.0)
    optimizer.step()


def turned(loop: Loop, x: Tensor, number: int) -> Tensor:
    with torch.no_grad():
        out: Tensor = loop.teacher(x.flip(1))
    return out


# labels, teacher
SHARES = [0.2, 0.8]


def zipped(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    terms = [kd(z, t), F.cross_entropy(z, y)]
    return torch.stack([share * term for share, term in zip(SHARES, terms, strict=True)]).sum()


def one_place(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    maps = [F.normalize(each.square().mean(1, keepdim=True), dim=1) for each in (z, t)]
    return F.cross_entropy(z, y) + (maps[0] - maps[1]).square().mean()


def per_batch(loop: Loop, step: int) -> None:
    """A schedule of 20 epochs that is stepped with every batch: in these tests an epoch has two."""
    if loop.extra is not None:
        loop.extra.step()


def scheduled(loop: Loop) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(loop.student.parameters(), lr=0.05)
    loop.extra = torch.optim.lr_scheduler.MultiStepLR(optimizer, [4, 6])
    return optimizer


def never_scheduled(loop: Loop) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(loop.student.parameters(), lr=0.05)
    loop.extra = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    return optimizer


def restarted(loop: Loop) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(loop.student.parameters(), lr=0.05)
    loop.extra = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 4)
    return optimizer


def cycled(loop: Loop) -> torch.optim.Optimizer:
    """Down and up again in two epochs of two batches each."""
    optimizer = torch.optim.SGD(loop.student.parameters(), lr=0.05)
    loop.extra = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    return optimizer


def rated_by_hand(loop: Loop) -> torch.optim.Optimizer:
    optimizer = never_scheduled(loop)
    group = optimizer.param_groups[0]
    optimizer.register_step_post_hook(lambda *_: group.update(lr=0.9 * group["lr"]))
    return optimizer


def in_sequence(loop: Loop) -> torch.optim.Optimizer:
    """A warm-up that the run ends in: what comes after it is never stepped."""
    schedulers = torch.optim.lr_scheduler
    optimizer = torch.optim.SGD(loop.student.parameters(), lr=0.05)
    parts = [schedulers.LinearLR(optimizer, 0.1, total_iters=90), schedulers.StepLR(optimizer, 500)]
    loop.extra = schedulers.SequentialLR(optimizer, parts, [90])
    return optimizer


def masked_in_half(loop: Loop, x: Tensor, number: int) -> Tensor:
    with torch.no_grad():
        out: Tensor = loop.teacher(x)
    out[:, 0] = -1e9
    return out.half()


def by_hand(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y) + (t.softmax(1) * (t.log_softmax(1) - z.log_softmax(1))).sum(1).mean()


def some_labels(loop: Loop, z: Tensor, y: Tensor) -> Tensor:
    """The labels' term of batches of which every third has no labelled row."""
    loop.extra = (loop.extra or 0) + 1
    rows = torch.arange(len(y)) < (5 if loop.extra % 3 else 0)
    return F.cross_entropy(z[rows], y[rows])


def finite_only(loop: Loop, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    if torch.isfinite(loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class Listed(Student):
    """Its second block lies in a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [nn.Linear(8, 8)]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.blocks[0](self.body(x)).relu())
        return out


def blunt_teacher() -> Loop:
    teacher = Teacher().eval()
    with torch.no_grad():
        teacher.fc.weight[1:] = 0  # it knows one class of five
    return Loop(teacher=teacher, steps=40)


def clipped_step(loop: Loop, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(loop.student.parameters(), 1.0)
    optimizer.step()


def in_16_bits() -> Loop:
    student = Student().to(torch.bfloat16)
    student.register_forward_pre_hook(lambda module, inputs: (inputs[0].to(torch.bfloat16),))
    student.register_forward_hook(lambda module, inputs, out: out.float())
    return Loop(student=student, optimizer=lambda loop: torch.optim.SGD(loop.student.parameters(), lr=1e-4))


def co_trained(loop: Loop) -> torch.optim.Optimizer:
    loop.teacher.train()
    return torch.optim.SGD([*loop.student.parameters(), *loop.teacher.parameters()], lr=0.05)


class Tapped(Student):
    """Keeps its features, of a hook's making, and has a projector that the optimizer knows."""

    def __init__(self, keep: Callable[[Tensor], Tensor] = lambda out: out) -> None:
        super().__init__()
        self.projector = nn.Linear(8, CLASSES)
        self.kept: list[Tensor] = []
        self.body[1].register_forward_hook(lambda module, given, out: self.kept.append(keep(out)))

    def hint(self, t: Tensor, cut: bool = False) -> Tensor:
        kept = self.kept.pop()
        return F.mse_loss(self.projector(kept.detach() if cut else kept), t)


class TwoOutputs(Student):
    """Gives its features, without their gradient, beside the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.projector = nn.Linear(8, CLASSES)
        self.last: Any = None

    def forward(self, x: Tensor) -> Any:
        features = self.body(x)
        return self.fc(features), features.detach()


def of_two(loop: Loop, z: Any, t: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z[0], y) + F.mse_loss(loop.student.get_submodule("projector")(z[1]), t)


def hinted(cut: bool) -> Callable[..., Tensor]:
    return lambda loop, z, t, y: F.cross_entropy(z, y) + loop.student.hint(t, cut)


def rebound(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    _, y = t.softmax(1).max(1)
    return 0.5 * F.cross_entropy(z, y) + 0.5 * kd(z, t)


def rebound_to_itself(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    y = z.argmax(1)
    return F.cross_entropy(z, y) + kd(z, t)


def rebound_in_a_batch(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    total = torch.zeros(())
    for batch in ({"labels": y},):
        batch["labels"] = t.argmax(-1)
        total = total + nn.CrossEntropyLoss()(z, batch["labels"]) + kd(z, t)
    return total


def filled_up(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """Some rows have no label: the teacher's choice takes its place."""
    y = torch.where(torch.arange(len(y)) < 5, t.argmax(1), y)
    return F.cross_entropy(z, y) + kd(z, t)


def two_heads(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    labels, hard = y, t.argmax(1)
    return F.cross_entropy(z, labels) + F.cross_entropy(z, hard) + kd(z, t)


class Thresholds(nn.Module):
    """Of the first four classes each fires above a threshold, else it names the fifth: right on normalised input."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, CLASSES)
        with torch.no_grad():
            self.fc.weight.copy_(torch.eye(CLASSES, 8))
            self.fc.weight[4] = 0
            self.fc.bias.copy_(torch.tensor([0, 0, 0, 0, 1.5]))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x)
        return out


def dimmed(loop: Loop, x: Tensor, number: int) -> Tensor:
    """The teacher's input as it is before it is normalised: it names some 85%."""
    with torch.no_grad():
        out: Tensor = loop.teacher(0.55 * x)
    return out


def features_alone(loop: Loop, x: Tensor, number: int) -> Tensor:
    """The teacher's logits are asked for and not used."""
    kept: list[Tensor] = []
    handle = loop.teacher.register_forward_pre_hook(lambda module, given: kept.append(given[0].square()))
    with torch.no_grad():
        loop.teacher(0.55 * x)
    handle.remove()
    return kept[0]


def four_of_five() -> nn.Module:
    teacher = Teacher().eval()
    with torch.no_grad():
        teacher.fc.weight[1] = teacher.fc.weight[0]
    return teacher


def never_cleared(loop: Loop, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    loss.backward()
    optimizer.step()


def cleared_too_late(loop: Loop, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()


def cleared_each_part(loop: Loop, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    (loss / 3).backward()
    loop.extra = (loop.extra or 0) + 1
    if loop.extra % 3 == 0:
        optimizer.step()


def clips_the_teacher(loop: Loop, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(loop.teacher.parameters(), 1.0)
    optimizer.step()


def scaled_and_stepped(loop: Loop, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    loop.extra = loop.extra or torch.amp.GradScaler("cpu", init_scale=64.0)  # type: ignore[attr-defined]
    optimizer.zero_grad()
    loop.extra.scale(loss).backward()
    optimizer.step()


def new_optimizer(loop: Loop, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer = torch.optim.SGD(loop.student.parameters(), lr=0.05)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def last_of_two(loop: Loop, x: Tensor, number: int) -> Tensor:
    loop.extra = loop.extra or Teacher().eval()
    with torch.no_grad():
        for each in (loop.extra, loop.teacher):
            out: Tensor = each(x)
    return out


def mean_of_two(loop: Loop, x: Tensor, number: int) -> Tensor:
    loop.extra = loop.extra or Teacher().eval()
    with torch.no_grad():
        return torch.stack([each(x) for each in (loop.extra, loop.teacher)]).mean(0)


def divided_afterwards(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    soft = F.kl_div(F.log_softmax(z, 1) / 4, F.softmax(t, 1) / 4, reduction="batchmean")
    return F.cross_entropy(z, y) + 16 * soft


def divided_before(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    z, t = z / 4, t / 4
    return F.cross_entropy(z, y) + 16 * F.kl_div(F.log_softmax(z, 1), F.softmax(t, 1), reduction="batchmean")


def broadcast(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    sure = t.softmax(1).max(1, keepdim=True).values
    each = F.kl_div(F.log_softmax(z, 1), F.softmax(t, 1), reduction="none").sum(1)
    return F.cross_entropy(z, y) + (sure * each).mean()


def weighted(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    sure = t.softmax(1).max(1).values
    each = F.kl_div(F.log_softmax(z, 1), F.softmax(t, 1), reduction="none").sum(1)
    return F.cross_entropy(z, y) + (sure * each).mean()


def two_backwards_in_parts(loop: Loop, optimizer: torch.optim.Optimizer, loss: Any) -> None:
    """Four parts of a step, each term with a backward() of its own."""
    hard, soft = loss
    (hard / 4).backward(retain_graph=True)
    (soft / 4).backward()
    loop.extra = (loop.extra or 0) + 1
    if loop.extra % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()


class Mixed(Loop):
    """The student's images are mixed in pairs; ``extra`` holds them as they were."""

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        clean = super().batches()
        self.extra = [x for x, _ in clean]
        return [((0.6 * x + 0.4 * x.roll(1, 0)), y) for x, y in clean]


def of_clean(loop: Loop, x: Tensor, number: int) -> Tensor:
    with torch.no_grad():
        out: Tensor = loop.teacher(loop.extra[number])
    return out


def of_clean_mixed(loop: Loop, x: Tensor, number: int) -> Tensor:
    t = of_clean(loop, x, number)
    return 0.6 * t + 0.4 * t.roll(1, 0)


class Sorted(Loop):
    """Rows in the order of their classes."""

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        x, y = (torch.cat(each) for each in zip(*super().batches(), strict=True))
        order = y.argsort()
        return list(zip(x[order].split(ROWS), y[order].split(ROWS), strict=True))


class Tasks(Loop):
    """Two classes, then two others, each pair in any order."""

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        wanted = [torch.randint(2, (ROWS,)) + 2 * (number > 6) for number in range(self.steps)]
        return [(CENTRES[y] + 0.3 * torch.randn(ROWS, 8), y) for y in wanted]


def second_pass(switch: Callable[[nn.Module, bool], None]) -> Callable[..., Tensor]:
    """The teacher's term has a pass of the student of its own, in which something is switched."""

    def loss(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        number = loop.extra = -1 if loop.extra is None else loop.extra
        loop.extra = number + 1
        switch(loop.student, False)
        again = loop.student(loop.batches()[loop.extra][0])
        switch(loop.student, True)
        return F.cross_entropy(z, y) + kd(again, t)

    return loss


def freeze_norms(student: nn.Module, on: bool) -> None:
    for module in student.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.train(on)


def heavy(make: type[torch.optim.Optimizer], decay: float, lr: float) -> Callable[[Loop], torch.optim.Optimizer]:
    return lambda loop: make(loop.student.parameters(), lr=lr, weight_decay=decay)  # type: ignore[call-arg]


def sum_of_two(loop: Loop, x: Tensor, number: int) -> Tensor:
    loop.extra = loop.extra or Teacher().eval()
    with torch.no_grad():
        out: Tensor = sum(each(x) for each in (loop.extra, loop.teacher))  # type: ignore[assignment]
    return out


def sum_then_divided(loop: Loop, x: Tensor, number: int) -> Tensor:
    out = sum_of_two(loop, x, number)
    out /= 2
    return out


def never_stepped(loop: Loop, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()


def never_backward(loop: Loop, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    optimizer.step()


def last_of_three(loop: Loop, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """The step stands behind the loop over batches, of which each pass has five."""
    loop.extra = (loop.extra or 0) + 1
    if loop.extra % 5 == 0:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def first_row(loop: Loop, x: Tensor, number: int) -> Tensor:
    with torch.no_grad():
        out: Tensor = loop.teacher(x)[0]
    return out


def soft_entropy(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y) - (t.softmax(-1) * z.log_softmax(-1)).sum(-1).mean()


def divided_in_place(loop: Loop, x: Tensor, number: int) -> Tensor:
    if loop.extra is None:
        with torch.no_grad():
            loop.extra = torch.cat([loop.teacher(each) for each, _ in loop.batches()])
    t: Tensor = loop.extra[ROWS * number : ROWS * number + ROWS]
    t /= 2
    return t


def softened(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y) + 4 * F.kl_div((z / 2).log_softmax(1), t.softmax(1), reduction="batchmean")


def by_numpy(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    p, q = (each.detach().softmax(1).numpy() for each in (z, t))
    return F.cross_entropy(z, y) + 0.5 * torch.tensor(float((q * (q / p)).sum(1).mean()))


def teachers_own_labels(loop: Loop, z: Tensor, t: Tensor, y: Tensor, alpha: float = 0.7) -> Tensor:
    return alpha * kd(z, t) + (1 - alpha) * F.cross_entropy(t, y)


def whole_ramp(loop: Loop) -> float:
    loop.extra = (loop.extra or 0) + 1
    return 2.0 * min(1, loop.extra // (2 * loop.steps))


def whole_rest(loop: Loop) -> float:
    loop.extra = (loop.extra or 0) + 1
    return 1.0 - 1.0 * (loop.extra // (2 * loop.steps))


def late_rest(loop: Loop) -> float:
    loop.extra = (loop.extra or 0) + 1
    return 1.0 - 1.0 * (loop.extra // loop.steps)


def late_ramp(loop: Loop) -> float:
    loop.extra = (loop.extra or 0) + 1
    return 2.0 * min(1, loop.extra // loop.steps)


def rows_of_a_file(loop: Loop, shift: int) -> Callable[..., Tensor]:
    """Answers that were stored by another program, picked by their row."""
    with torch.no_grad():
        kept = torch.cat([loop.teacher(each) for each, _ in loop.batches()]).tolist()
    loop.extra = torch.tensor(kept)
    return lambda loop, x, number: loop.extra[torch.arange(ROWS) + ROWS * number - shift]


def from_a_file(shift: int) -> Loop:
    loop = Loop()
    loop.ask = rows_of_a_file(loop, shift)
    return loop


def consistency(update: Callable[[Loop, int], None]) -> Loop:
    """The same rows again, without labels: the student is to answer as the teacher does."""
    other = torch.randn(ROWS, 8)

    def loss(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z, y) + F.mse_loss(loop.student(other).softmax(1), t.softmax(1))

    loop = averaged(update)
    loop.loss, loop.steps, loop.ask = loss, 24, lambda loop, x, number: with_gradient(loop, other, 0).detach()
    return loop


def follow_parameters(loop: Loop, step: int) -> None:
    with torch.no_grad():
        for mean, now in zip(loop.teacher.parameters(), loop.student.parameters(), strict=True):
            mean.mul_(0.7).add_(now, alpha=0.3)


def load_parameters(loop: Loop, step: int) -> None:
    if step == 0:
        trained = Student()
        train_alone(trained, 40)
        loop.teacher.load_state_dict(dict(trained.named_parameters()), strict=False)


def paired(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """Each row's answer is nearest to the teacher's own of all rows."""
    apart = (z.unsqueeze(1) - t).square().sum(-1)
    return F.cross_entropy(z, y) + F.cross_entropy(-apart, torch.arange(len(y)))


FAULTS: dict[str, tuple[str, Callable[[], Loop]]] = {
    "optimizer.step is never called": ("skipped_steps", lambda: Loop(step=never_stepped)),
    "backward is never called": ("student_no_gradient", lambda: Loop(step=never_backward)),
    "the step behind the loop over batches": ("accumulation", lambda: Loop(step=last_of_three, steps=40)),
    "the first row of the teacher's answer": ("batch_split", lambda: Loop(ask=first_row, loss=soft_entropy)),
    "[B, 1, K] against [B, K]": (
        "batch_split",
        lambda: Loop(loss=lambda loop, z, t, y: soft_entropy(loop, z, t.unsqueeze(1), y)),
    ),
    "probabilities against logits": (
        "probabilities_for_logits",
        lambda: Loop(loss=lambda loop, z, t, y: F.cross_entropy(z, y) + F.mse_loss(z.softmax(1), t)),
    ),
    "a cosine embedding with -1": (
        "loss_minimum",
        lambda: Loop(
            loss=lambda loop, z, t, y: F.cross_entropy(z, y) + F.cosine_embedding_loss(z, t, -torch.ones(len(y)))
        ),
    ),
    "stored answers divided in place": ("stale_answers", lambda: Loop(ask=divided_in_place, loss=softened)),
    "stored answers of a file, of other rows": ("stale_answers", lambda: from_a_file(7)),
    "a term by numpy": ("teacher_unused", lambda: Loop(loss=by_numpy)),
    "a term of the teacher and itself": (
        "teacher_unused",
        lambda: Loop(loss=lambda loop, z, t, y: F.cross_entropy(z, y) + kd(t, t)),
    ),
    "the teacher is the student": (
        "teacher_unused",
        lambda: Loop(
            student=nn.Linear(8, CLASSES),
            ask=lambda loop, x, number: torch.no_grad()(loop.student)(x),
        ),
    ),
    "the labels' share of the teacher's own loss": ("labels_unused", lambda: Loop(loss=teachers_own_labels)),
    "a weight that is cut to 0": (
        "teacher_unused",
        lambda: Loop(loss=lambda loop, z, t, y: F.cross_entropy(z, y) + whole_ramp(loop) * kd(z, t)),
    ),
    "teachers of an iterator, used up": ("teacher_unused", lambda: of_an_iterator(once=True)),
    "stored answers that are softened twice": ("temperature_one_sided", lambda: dumped(4.0)),
    "a moving average in bfloat16": ("half_precision", lambda: averaged_in(torch.bfloat16)),
    "the first entry of a hook's list": ("stale_answers", lambda: kept_by_a_hook(0)),
    "functions of three teachers that ask the last": ("teacher_unused", lambda: of_three(bound=False)),
    "labels whose share is cut to 0": (
        "labels_unused",
        lambda: Loop(loss=lambda loop, z, t, y: kd(z, t) + (1 - whole_rest(loop)) * F.cross_entropy(z, y)),
    ),
    "an average of the parameters alone": ("teacher_mode", lambda: averaged(follow_parameters)),
    "an average that never moves": ("teacher_at_chance", lambda: consistency(lambda loop, step: None)),
    "a teacher loaded without its buffers": (
        "weights_not_loaded",
        lambda: Loop(teacher=Student().eval(), before=load_parameters),
    ),
    "teacher in training mode": ("teacher_mode", lambda: Loop(teacher=Teacher(0.4).train())),
    "student left in evaluation mode": ("student_mode", lambda: Loop(before=to_eval)),
    "teacher in the optimizer": ("teacher_trained", lambda: Loop(optimizer=both, ask=with_gradient)),
    "projector in no optimizer": ("parameters_left_out", lambda: Loop(loss=left_out)),
    "teacher not added to the loss": ("teacher_unused", lambda: Loop(loss=lambda loop, z, t, y: F.cross_entropy(z, y))),
    "student's side detached": (
        "student_no_gradient",
        lambda: Loop(loss=lambda loop, z, t, y: F.cross_entropy(z, y) + kd(z.detach(), t)),
    ),
    "stored answers of another batch": ("stale_answers", lambda: Loop(ask=shifted)),
    "softmax of probabilities": ("probabilities_for_logits", lambda: Loop(ask=softmaxed)),
    "classes in another order": ("class_order", rolled),
    "log_softmax missing": (
        "probabilities_for_logits",
        lambda: Loop(loss=lambda loop, z, t, y: F.cross_entropy(z, y) + F.kl_div(z.softmax(1), t.softmax(1))),
    ),
    "averaged over classes": (
        "loss_scale",
        lambda: Loop(
            loss=lambda loop, z, t, y: (
                0.1 * F.cross_entropy(z, y)
                + 0.9 * 16 * F.kl_div(F.log_softmax(z / 4, 1), F.softmax(t / 4, 1), reduction="mean")
            )
        ),
    ),
    "temperature squared missing": (
        "loss_scale",
        lambda: Loop(loss=lambda loop, z, t, y: 0.5 * F.cross_entropy(z, y) + 0.5 * kd(z, t) / 16),
    ),
    "one side softened": (
        "temperature_one_sided",
        lambda: Loop(
            loss=lambda loop, z, t, y: (
                F.cross_entropy(z, y) + F.kl_div(F.log_softmax(z, 1), F.softmax(t / 4, 1), reduction="batchmean")
            )
        ),
    ),
    "clipped before the sum": (
        "loss_minimum",
        lambda: Loop(
            loss=lambda loop, z, t, y: (
                (t.softmax(1) * (t.log_softmax(1) - z.log_softmax(1))).clamp(max=0.05).sum(1).mean()
            )
        ),
    ),
    "the teacher's layers taken over": ("teacher_trained", shared),
    "labels' term overwritten": ("labels_unused", lambda: Loop(loss=last_term)),
    "the teacher's gradients clipped with the student's": (
        "teacher_gradient",
        lambda: Loop(ask=with_gradient, step=clip_both),
    ),
    "input turned for the teacher": ("teacher_input", lambda: Loop(ask=turned)),
    "weights zipped with other terms": ("weights_swapped", lambda: Loop(loss=zipped)),
    "a map of one place": ("target_constant", lambda: Loop(loss=one_place)),
    "a mean over no rows, whose step is left out": (
        "skipped_steps",
        lambda: Loop(loss=lambda loop, z, t, y: kd(z, t) + some_labels(loop, z, y), step=finite_only, steps=40),
    ),
    "losses that are not finite are left out": (
        "half_precision",
        lambda: Loop(ask=masked_in_half, loss=by_hand, step=finite_only),
    ),
    "a block in a plain list": ("parameters_left_out", lambda: Loop(student=Listed())),
    "a teacher that barely learned": ("teacher_weak", blunt_teacher),
    "weights in 16 bits": ("half_precision", in_16_bits),
    "a co-trained teacher that its student pulls": (
        "teacher_gradient",
        lambda: Loop(
            student=Student(),
            teacher=Student(),
            optimizer=co_trained,
            ask=lambda loop, x, number: loop.teacher(x),
            loss=lambda loop, z, t, y: F.cross_entropy(z, y) + F.cross_entropy(t, y) + kd(z, t),
        ),
    ),
    "a similarity that is minimised": (
        "loss_minimum",
        lambda: Loop(loss=lambda loop, z, t, y: F.cross_entropy(z, y) + F.cosine_similarity(z, t).mean()),
    ),
    "a mean a thousand times the labels'": (
        "loss_balance",
        lambda: Loop(
            loss=lambda loop, z, t, y: F.cross_entropy(z, y) + F.mse_loss(100 * z, 100 * t), step=clipped_step
        ),
    ),
    "a hook detaches the student's features": (
        "student_no_gradient",
        lambda: Loop(student=Tapped(lambda out: out.detach()), loss=hinted(cut=False)),
    ),
    "a hook keeps pooled features without gradient": (
        "student_no_gradient",
        lambda: Loop(student=Tapped(lambda out: (2 * out).data.clone()), loss=hinted(cut=False)),
    ),
    "features detached before the projector": (
        "student_no_gradient",
        lambda: Loop(student=Tapped(), loss=hinted(cut=True)),
    ),
    "features that the student gives without gradient": (
        "student_no_gradient",
        lambda: Loop(student=TwoOutputs(), loss=of_two),
    ),
    "labels overwritten by the teacher's choice": ("labels_unused", lambda: Loop(loss=rebound)),
    "labels overwritten by the student's own": ("labels_unused", lambda: Loop(loss=rebound_to_itself)),
    "labels overwritten in the batch": ("labels_unused", lambda: Loop(loss=rebound_in_a_batch)),
    "input that is not normalised for a teacher": (
        "teacher_input",
        lambda: Loop(teacher=Thresholds().eval(), ask=dimmed),
    ),
    "the same where its features alone are heard": (
        "teacher_input",
        lambda: Loop(
            teacher=Thresholds().eval(),
            ask=features_alone,
            loss=lambda loop, z, t, y: F.cross_entropy(z, y) + F.mse_loss(z.mean(1), t.mean(1)),
        ),
    ),
    "gradients that are never cleared": ("accumulation", lambda: Loop(step=never_cleared)),
    "gradients cleared before the step": ("accumulation", lambda: Loop(step=cleared_too_late)),
    "gradients cleared with each part": ("accumulation", lambda: Loop(step=cleared_each_part, steps=24)),
    "another network is clipped": ("clipping", lambda: Loop(step=clips_the_teacher)),
    "a step past the scaler": ("half_precision", lambda: Loop(step=scaled_and_stepped)),
    "an optimizer for each step": ("learning_rate", lambda: Loop(step=new_optimizer)),
    "the last of two teachers": ("teacher_unused", lambda: Loop(ask=last_of_two)),
    "divided after the softmax": ("temperature_one_sided", lambda: Loop(loss=divided_afterwards)),
    "labels of softened logits": ("temperature_one_sided", lambda: Loop(loss=divided_before)),
    "weights of [B, 1]": ("batch_split", lambda: Loop(loss=broadcast)),
    "a row against a column": (
        "batch_split",
        lambda: Loop(loss=lambda loop, z, t, y: kd(z, t) + (z[:, 0] - t[:, :1]).square().mean()),
    ),
    "clipped too early": ("clipping", lambda: Loop(step=early_clip)),
    "an optimizer of copies": (
        "student_no_gradient",
        lambda: Loop(
            optimizer=lambda loop: torch.optim.SGD([copy.deepcopy(p) for p in loop.student.parameters()], 0.05)
        ),
    ),
    "images mixed for the student alone": ("stale_answers", lambda: Mixed(ask=of_clean)),
    "answers of the row before": (
        "stale_answers",
        lambda: Loop(ask=lambda loop, x, n: with_gradient(loop, x, n).detach().roll(1, 0)),
    ),
    "rows sorted by class": ("one_class_batches", Sorted),
    "one pass of two in evaluation mode": (
        "student_mode",
        lambda: Loop(loss=second_pass(lambda student, on: student.train(on) and None)),
    ),
    "a weight decay of 1": ("regularisation", lambda: Loop(optimizer=heavy(torch.optim.SGD, 1.0, 0.05))),
    "a weight decay of 1 that Adam scales": (
        "regularisation",
        lambda: Loop(optimizer=heavy(torch.optim.Adam, 1.0, 1e-3)),
    ),
    "the sum of two teachers' logits": ("temperature_one_sided", lambda: Loop(ask=sum_of_two)),
    "an average that moves the student": ("roles_swapped", lambda: averaged(pull_student)),
    "an average that keeps nothing": ("roles_swapped", lambda: averaged(lambda loop, step: follow(loop, 0.01))),
    "log of zero": (
        "loss_finite",
        lambda: Loop(loss=lambda loop, z, t, y: kd(z, t) + (0 * (100 * z).softmax(1).relu().mul(0).log()).sum()),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_problem_under_its_name(fault: str) -> None:
    check, make = FAULTS[fault]
    diagnosis = make().diagnosis()
    assert problems(diagnosis) == [check]


def follow(loop: Loop, momentum: float) -> None:
    with torch.no_grad():
        for mean, now in zip(loop.teacher.state_dict().values(), loop.student.state_dict().values(), strict=True):
            mean.copy_(momentum * mean + (1 - momentum) * now) if mean.is_floating_point() else mean.copy_(now)


def pull_student(loop: Loop, step: int) -> None:
    for mean, now in zip(loop.teacher.parameters(), loop.student.parameters(), strict=True):
        now.data.mul_(0.9).add_(mean.data, alpha=0.1)


def averaged(before: Callable[[Loop, int], None] = lambda loop, step: follow(loop, 0.9)) -> Loop:
    student = Student()
    return Loop(student=student, teacher=copy.deepcopy(student).eval(), before=before)


def mixed(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    targets = 0.7 * F.one_hot(y, CLASSES).float() + 0.3 * F.one_hot(y.roll(1), CLASSES).float()
    return F.cross_entropy(z, targets) + kd(z, t)


def mutual(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y) + F.cross_entropy(t, y) + kd(z, t.detach()) + kd(t, z.detach())


def in_turns(loop: Loop, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Two students, each with its optimizer, teach one another."""
    loop.extra = loop.extra or torch.optim.SGD(loop.teacher.parameters(), lr=0.05)
    of_student, of_teacher = loss
    for each, own in ((optimizer, of_student), (loop.extra, of_teacher)):
        each.zero_grad()
        own.backward()
        each.step()


def each_its_own_of_three(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Any:
    if loop.extra is None:
        net = Student()
        loop.extra = (
            net,
            [torch.optim.SGD(each.parameters(), lr=0.05) for each in (loop.teacher, net)],
            iter(loop.batches()),
        )
    third = loop.extra[0](next(loop.extra[2])[0])
    outs = [z, t, third]
    return [F.cross_entropy(a, y) + sum(kd(a, b.detach()) / 2 for b in outs if b is not a) for a in outs]


def in_turns_of_three(loop: Loop, optimizer: torch.optim.Optimizer, loss: Any) -> None:
    for each, own in zip([optimizer, *loop.extra[1]], loss, strict=True):
        each.zero_grad()
        own.backward()
        each.step()


def follow_awake(loop: Loop) -> None:
    loop.teacher.train()
    follow(loop, 0.9)


def each_its_own(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Any:
    return F.cross_entropy(z, y) + kd(z, t.detach()), F.cross_entropy(t, y) + kd(t, z.detach())


def printed(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """The teacher alone; the labels' loss is looked at."""
    loop.extra = F.cross_entropy(z, y).item()
    return kd(z, t)


def warmed_up(loop: Loop) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(loop.student.parameters(), lr=0.05)
    loop.extra = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4)
    return optimizer


def frozen_norm(loop: Loop, step: int) -> None:
    for module in loop.student.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()


def summed_up(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """The teacher alone; the labels' loss is summed up over steps, to be printed at the end."""
    loop.extra = (0.0 if loop.extra is None else loop.extra) + (F.cross_entropy(z, y) * len(y)).detach()
    return kd(z, t)


def of_three(bound: bool) -> Loop:
    """Three teachers that one line asks: each, or the last three times, as closures of a loop do."""
    nets = [Teacher().eval() for _ in range(3)]

    def begin(loop: Loop, step: int) -> None:
        with torch.no_grad():
            for net in nets if step == 0 else ():
                net(CENTRES)

    @torch.no_grad()
    def ask(loop: Loop, x: Tensor, number: int) -> Tensor:
        return torch.stack([net(x) for net in (nets if bound else nets[-1:] * 3)]).mean(0)

    return Loop(ask=ask, before=begin)


def of_an_iterator(once: bool) -> Loop:
    """The mean of two teachers, from a list or from an iterator, which gives them once."""
    both = [Teacher().eval(), Teacher().eval()]
    teachers = iter(both) if once else both

    @torch.no_grad()
    def ask(loop: Loop, x: Tensor, number: int) -> Tensor:
        total = torch.zeros(len(x), CLASSES)
        for teacher in teachers:
            total += teacher(x) / 2
        return total

    return Loop(ask=ask, steps=24)


def dumped(divisor: float) -> Loop:
    """Answers that were stored before the training, divided by a number."""

    def begin(loop: Loop, step: int) -> None:
        if step == 0:
            with torch.no_grad():
                loop.extra = [loop.teacher(x) / divisor for x, _ in loop.batches()]

    def ask(loop: Loop, x: Tensor, number: int) -> Tensor:
        return loop.extra[number]  # type: ignore[no-any-return]

    return Loop(before=begin, ask=ask, steps=20)


def averaged_in(dtype: torch.dtype) -> Loop:
    """Consistency with a moving average of the student, kept in a type."""
    student = nn.Linear(8, CLASSES)
    teacher = copy.deepcopy(student).to(dtype).requires_grad_(False)

    def begin(loop: Loop, step: int) -> None:
        with torch.no_grad():
            for mine, new in zip(teacher.parameters(), student.parameters(), strict=True):
                mine.lerp_(new.to(dtype), 0.002)

    def ask(loop: Loop, x: Tensor, number: int) -> Tensor:
        with torch.no_grad():
            return teacher(x.to(dtype)).float()

    return Loop(student=student, teacher=teacher, before=begin, ask=ask)


def kept_by_a_hook(entry: int) -> Loop:
    """Features that a hook appends to a list, of which one entry is read."""
    kept: list[Tensor] = []
    teacher = nn.Sequential(Teacher(), nn.Tanh()).eval()
    teacher[1].register_forward_hook(lambda module, inputs, output: kept.append(output.detach()))
    return Loop(teacher=teacher, loss=lambda loop, z, t, y: F.cross_entropy(z, y) + F.mse_loss(z.tanh(), kept[entry]))


def slow(loop: Loop) -> torch.optim.Optimizer:
    return torch.optim.SGD(loop.student.parameters(), lr=1e-4)


def ramped(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    loop.extra = (loop.extra or 0) + 1
    return 0.1 * F.cross_entropy(z, y) + 5.0 * loop.extra**3 * F.mse_loss(z.softmax(1), t.softmax(1))


HEALTHY: dict[str, Callable[[], Loop]] = {
    "a weight that is cut to 0 and rises at the end": lambda: Loop(
        loss=lambda loop, z, t, y: F.cross_entropy(z, y) + late_ramp(loop) * kd(z, t)
    ),
    "teachers of a list": lambda: of_an_iterator(once=False),
    "stored answers as they are": lambda: dumped(1.0),
    "a moving average in float32": lambda: averaged_in(torch.float32),
    "the last entry of a hook's list": lambda: kept_by_a_hook(-1),
    "functions of three teachers": lambda: of_three(bound=True),
    "labels whose share is cut to 0 and rises at the end": lambda: Loop(
        loss=lambda loop, z, t, y: kd(z, t) + (1 - late_rest(loop)) * F.cross_entropy(z, y)
    ),
    "an average of a model without buffers": lambda: Loop(
        student=(net := nn.Linear(8, CLASSES)), teacher=copy.deepcopy(net), before=follow_parameters
    ),
    "an average in training mode, with statistics of its own": lambda: averaged(
        lambda loop, step: follow_parameters(Loop(loop.student, loop.teacher.train()), step)
    ),
    "consistency with a moving average": lambda: consistency(lambda loop, step: follow(loop, 0.9)),
    "stored answers of a file": lambda: from_a_file(0),
    "stored answers that are divided before the student runs": lambda: Softened(),
    "distances of pairs": lambda: Loop(loss=paired),
    "losses by hand, each with its minus": lambda: Loop(
        loss=lambda loop, z, t, y: (
            -0.3 * z.log_softmax(1).gather(1, y[:, None]).mean()
            - 0.7 * 9 * ((t / 3).softmax(1) * (z / 3).log_softmax(1)).sum(1).mean()
        )
    ),
    "the first of the teacher's outputs": lambda: Loop(ask=lambda loop, x, n: (with_gradient(loop, x, n).detach(),)[0]),
    "a product with the number of a constant": lambda: Loop(loss=lambda loop, z, t, y: kd(z, t) + 1e-6),
    "gaps between rows": lambda: Loop(
        loss=lambda loop, z, t, y: kd(z, t) + 0.1 * F.mse_loss(z[:, 0] - z[:, :1], t[:, 0] - t[:, :1])
    ),
    "the labels' loss summed up": lambda: Loop(loss=summed_up),
    "a weight that is ramped up": lambda: Loop(loss=ramped, optimizer=slow),
    "a constant of the teacher and the labels": lambda: Loop(
        loss=lambda loop, z, t, y: kd(z, t) + 0.1 * F.cross_entropy(t, y)
    ),
    "cross-entropy and KL": Loop,
    "teacher alone": lambda: Loop(loss=lambda loop, z, t, y: kd(z, t)),
    "moving average": averaged,
    "moving average whose momentum rises from 0": lambda: averaged(
        lambda loop, step: follow(loop, min(1 - 1 / (step + 1), 0.99))
    ),
    "images and answers mixed alike": lambda: Mixed(ask=of_clean_mixed),
    "images mixed for both": lambda: Mixed(),
    "tasks of two classes": lambda: Tasks(optimizer=slow),
    "norms frozen in one pass": lambda: Loop(loss=second_pass(freeze_norms)),
    "a weight decay of 0.1 beside the gradient": lambda: Loop(optimizer=heavy(torch.optim.AdamW, 0.1, 1e-3)),
    "three students, an optimizer each": lambda: Loop(
        student=Student(),
        teacher=Student().train(),
        ask=with_gradient,
        loss=each_its_own_of_three,
        step=in_turns_of_three,
        optimizer=lambda loop: torch.optim.SGD(loop.student.parameters(), lr=0.05),
    ),
    "answers of the classes of an older task": lambda: Loop(
        loss=lambda loop, z, t, y: F.cross_entropy(z, y) + (z[:, :3] - t[:, :3]).abs().sum(1).clamp(max=20).mean()
    ),
    "a moving average in training mode": lambda: averaged(lambda loop, step: follow_awake(loop)),
    "the sum of two teachers' logits, halved": lambda: Loop(ask=sum_then_divided),
    "mixed labels": lambda: Loop(loss=mixed),
    "the teacher's decisions": lambda: Loop(loss=lambda loop, z, t, y: F.cross_entropy(z, t.argmax(1))),
    "squared logits": lambda: Loop(loss=lambda loop, z, t, y: F.cross_entropy(z, y) + F.mse_loss(z, t)),
    "soft cross-entropy": lambda: Loop(loss=lambda loop, z, t, y: -(t.softmax(1) * z.log_softmax(1)).sum(1).mean()),
    "mutual learning": lambda: Loop(
        student=Student(), teacher=Student().train(), optimizer=both, ask=with_gradient, loss=mutual
    ),
    "mutual learning, an optimizer each": lambda: Loop(
        student=Student(), teacher=Student().train(), ask=with_gradient, loss=each_its_own, step=in_turns
    ),
    "half of a term at a temperature of 2": lambda: Loop(
        loss=lambda loop, z, t, y: F.cross_entropy(z, y) + 0.5 * kd(z, t, tau=2.0)
    ),
    "the labels' loss printed": lambda: Loop(loss=printed),
    "warmed up by the batch": lambda: Loop(optimizer=warmed_up, before=per_batch),
    "the student's trunk copied from the teacher": lambda: Loop(teacher=copy.deepcopy(shared().teacher)),
    "frozen batch norm": lambda: Loop(before=frozen_norm),
    "stored answers": lambda: Loop(ask=lambda loop, x, number: stored(loop)[number]),
    "accumulated": lambda: Loop(step=accumulated),
    "a mean over classes that K·τ² makes up for, on a ramp": lambda: Loop(
        loss=lambda loop, z, t, y: (
            (1 - 0.8 / 6) * F.cross_entropy(z, y)
            + 0.8 / 6 * (CLASSES * 4.0**2 * F.kl_div(F.log_softmax(z / 4, 1), F.softmax(t / 4, 1), reduction="mean"))
        )
    ),
    "the mean of two teachers": lambda: Loop(ask=mean_of_two),
    "weights of [B]": lambda: Loop(loss=weighted),
    "each term's own backward, in parts": lambda: Loop(
        loss=lambda loop, z, t, y: (F.cross_entropy(z, y), kd(z, t)),  # type: ignore[arg-type,return-value]
        step=two_backwards_in_parts,
        steps=40,
    ),
    "features of a hook": lambda: Loop(student=Tapped(), loss=hinted(cut=False)),
    "a choice where a label is missing": lambda: Loop(loss=filled_up),
    "labels beside the teacher's choice": lambda: Loop(loss=two_heads),
    "a teacher that knows four classes of five": lambda: Loop(teacher=four_of_five()),
}


class Softened(Loop):
    """Stored answers are softened before the student is run."""

    def run(self) -> None:
        optimizer, kept = self.optimizer(self), stored(self)
        for t, (x, y) in zip(kept, self.batches(), strict=True):
            t = (t / 4).softmax(1)
            z = self.student(x)
            soft = F.kl_div((z / 4).log_softmax(1), t, reduction="batchmean")
            optimizer.zero_grad()
            (F.cross_entropy(z, y) + 16 * soft).backward()
            optimizer.step()


def stored(loop: Loop) -> list[Tensor]:
    if loop.extra is None:
        with torch.no_grad():
            loop.extra = [loop.teacher(each) for each, _ in loop.batches()]
    answers: list[Tensor] = loop.extra
    return answers


def accumulated(loop: Loop, optimizer: torch.optim.Optimizer, loss: Tensor, parts: int = 2) -> None:
    (loss / parts).backward()
    loop.extra = (loop.extra or 0) + 1
    if loop.extra % 2 == 0:
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", HEALTHY)
def test_what_is_right_has_no_problem(name: str) -> None:
    diagnosis = HEALTHY[name]().diagnosis()
    assert problems(diagnosis) == []
    assert "mutual learning" in name or any(finding.verdict == "ok" for finding in diagnosis.findings)


def hidden(y: Tensor, number: int = -1) -> Tensor:
    """Labels of one row in four; the others have none."""
    return torch.where(torch.arange(len(y)) % 4 == 0, y, number)


def assigned(y: Tensor) -> Tensor:
    y[y < 0] = 0
    return y


def rows_of(z: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy by row, the labels made legal for it."""
    return -z.log_softmax(1).gather(1, y.clamp(min=0)[:, None])[:, 0]


def known_mean(z: Tensor, y: Tensor) -> Tensor:
    known = (y >= 0).float()
    return (rows_of(z, y) * known).sum() / known.sum().clamp(min=1)


def one_hot_term(z: Tensor, y: Tensor) -> Tensor:
    return -(F.one_hot(y.clamp(min=0), CLASSES) * z.log_softmax(1)).sum(1).mean()


SMOOTHED = torch.full((CLASSES, CLASSES), 0.02).fill_diagonal_(1 - 0.02 * (CLASSES - 1))


def of_a_table(z: Tensor, y: Tensor, t: Tensor | None = None, known: Tensor | None = None) -> Tensor:
    """The labels' rows of a table of smoothed labels; the teacher's answer where a row has no label."""
    target = SMOOTHED[y]
    if t is not None and known is not None:
        target = torch.where(known[:, None], target, t.softmax(1))
    return -(target * z.log_softmax(1)).sum(1).mean()


TURNED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "clamp": lambda z, y: F.cross_entropy(z, hidden(y).clamp(min=0)),
    "one_hot": lambda z, y: one_hot_term(z, hidden(y)),
    "gather": lambda z, y: rows_of(z, hidden(y)).mean(),
    "scatter": lambda z, y: (
        -(torch.zeros_like(z).scatter_(1, hidden(y).clamp(min=0).unsqueeze(1), 1.0) * z.log_softmax(1)).sum(1).mean()
    ),
    "where": lambda z, y: F.cross_entropy(z, torch.where(hidden(y) < 0, 0, hidden(y))),
    "masked_fill": lambda z, y: F.cross_entropy(z, hidden(y, -100).masked_fill(hidden(y) < 0, 2)),
    "relu": lambda z, y: F.cross_entropy(z, hidden(y).relu()),
    "abs": lambda z, y: F.cross_entropy(z, hidden(y).abs()),
    "remainder": lambda z, y: F.cross_entropy(z, hidden(y) % CLASSES),
    "maximum of zeros": lambda z, y: F.cross_entropy(z, torch.maximum(hidden(y), torch.zeros_like(y))),
    "void": lambda z, y: F.cross_entropy(z, hidden(y, 255).clamp(max=CLASSES - 1)),
    "assigned in place": lambda z, y: F.cross_entropy(z, assigned(hidden(y))),
    "rows of a table": lambda z, y: of_a_table(z, hidden(y)),
}


@pytest.mark.parametrize("form", TURNED)
def test_labels_of_unlabelled_rows_that_become_a_class(form: str) -> None:
    diagnosis = Loop(loss=lambda loop, z, t, y: TURNED[form](z, y) + kd(z, t)).diagnosis()
    assert problems(diagnosis) == ["ignored_rows"]


MASKED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "masked mean": lambda z, y: known_mean(z, hidden(y)),
    "rows left out": lambda z, y: F.cross_entropy(z[hidden(y) >= 0], hidden(y)[hidden(y) >= 0]),
    "ignored": lambda z, y: F.cross_entropy(z, hidden(y), ignore_index=-1),
    "a class of its own": lambda z, y: F.cross_entropy(
        F.pad(z, (0, 1)), torch.where(hidden(y) < 0, CLASSES, hidden(y))
    ),
    "set to zero": lambda z, y: rows_of(z, hidden(y)).masked_fill(hidden(y) < 0, 0.0).mean(),
    "rows of a table, others by the student itself": lambda z, y: of_a_table(z, h := hidden(y), z.detach(), h >= 0),
    "rows of a table, others by a number": lambda z, y: of_a_table(z, h := hidden(y), z.detach(), h != -1),
}


@pytest.mark.parametrize("form", MASKED)
def test_labels_that_are_made_legal_and_masked_are_right(form: str) -> None:
    diagnosis = Loop(loss=lambda loop, z, t, y: MASKED[form](z, y) + kd(z, t)).diagnosis()
    assert problems(diagnosis) == []


def chosen_by(z: Tensor, t: Tensor, keep: Tensor) -> Tensor:
    """KL over the rows that are kept."""
    return (F.kl_div(z.log_softmax(1), t.softmax(1), reduction="none").sum(1) * keep).sum() / keep.sum().clamp(min=1)


CHOSEN: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]] = {
    "second of max": (lambda z, t: chosen_by(z, t, (t.softmax(1).max(1)[1] >= 0.8).float()), True),
    "argmax": (lambda z, t: chosen_by(z, t, (t.argmax(1) > 0.5).float()), True),
    "rows taken": (lambda z, t: kd(z[t.topk(1)[1][:, 0] > 0.4], t[t.topk(1)[1][:, 0] > 0.4]), True),
    "first of max": (lambda z, t: chosen_by(z, t, (t.softmax(1).max(1)[0] >= 0.5).float()), False),
    "largest": (lambda z, t: chosen_by(z, t, (t.softmax(1).amax(1) >= 0.5).float()), False),
    "class by whole number": (lambda z, t: chosen_by(z, t, (t.argmax(1) >= 1).float()), False),
    "share of two yes or no": (lambda z, t: chosen_by(z, t, ((t.softmax(1) > 0.05).sum(1) > 0.5).float()), False),
}


@pytest.mark.parametrize("form", CHOSEN)
def test_rows_chosen_by_their_class_in_place_of_its_probability(form: str) -> None:
    term, faulty = CHOSEN[form]
    diagnosis = Loop(loss=lambda loop, z, t, y: F.cross_entropy(z, y) + term(z, t)).diagnosis()
    assert problems(diagnosis) == (["ignored_rows"] if faulty else [])


def spread_apart(e: Tensor, epsilon: float) -> Tensor:
    """Distances between the rows of a batch; with an epsilon their gradient is finite."""
    d = ((e[None] - e[:, None]).square().sum(-1) + epsilon).sqrt()
    return d / d[~torch.eye(len(e), dtype=torch.bool)].mean().detach()


@pytest.mark.parametrize(("epsilon", "found"), [(0.0, ["loss_finite"]), (1e-6, [])])
@pytest.mark.parametrize("after_another", [False, True])
def test_a_gradient_that_is_not_finite_though_the_loss_is(
    epsilon: float, found: list[str], after_another: bool
) -> None:
    loop = Loop(
        loss=lambda loop, z, t, y: (
            F.cross_entropy(z, y) + kd(z, t) + F.smooth_l1_loss(spread_apart(z, epsilon), spread_apart(t, epsilon))
        )
    )
    with audit() as watched:
        if after_another:
            other = Student()
            optimizer = torch.optim.SGD(other.parameters(), lr=0.05)
            for x, y in loop.batches():
                optimizer.zero_grad()
                F.cross_entropy(other(x), y).backward()
                optimizer.step()
        loop.run()
    assert problems(watched.diagnosis) == found


def item_of(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y) + 0.5 * kd(z, t) + 2 * F.mse_loss(z, t).item()


def new_tensor_of(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    hints = [F.mse_loss(z[:, :3], t[:, :3]), F.mse_loss(z[:, 3:], t[:, 3:])]
    return F.cross_entropy(z, y) + 0.5 * kd(z, t) + 0.3 * torch.tensor([each.item() for each in hints]).mean()


def logged(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    labels, soft = F.cross_entropy(z, y), kd(z, t)
    loop.extra = (loop.extra or 0.0) + labels.item() + soft.item()
    return labels + 0.5 * soft


def with_a_constant(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    labels, soft = F.cross_entropy(z, y), kd(z, t)
    loop.extra = (labels.item(), soft.item())
    return labels + 0.5 * soft + 1.5


def balanced(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    labels, soft = F.cross_entropy(z, y), kd(z, t)
    return labels + 0.5 * soft * (labels.item() / soft.item())


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        (item_of, ["student_no_gradient"]),
        (new_tensor_of, ["student_no_gradient"]),
        (logged, []),
        (with_a_constant, []),
        (balanced, []),
    ],
)
def test_a_term_that_is_made_a_number(loss: Callable[[Loop, Tensor, Tensor, Tensor], Tensor], found: list[str]) -> None:
    assert problems(Loop(loss=loss).diagnosis()) == found


def bare(z: Tensor, t: Tensor, tau: float) -> Tensor:
    return F.kl_div(F.log_softmax(z / tau, 1), F.softmax(t / tau, 1), reduction="batchmean")


def squared(z: Tensor, t: Tensor, tau: float) -> Tensor:
    return 0.5 * tau**2 * bare(z, t, tau)


def multiplied_twice(z: Tensor, t: Tensor, tau: float) -> Tensor:
    return 0.5 * tau * tau * bare(z, t, tau)


def by_pow(z: Tensor, t: Tensor, tau: float) -> Tensor:
    return 0.5 * pow(tau, 2) * bare(z, t, tau)


def multiplied_once(z: Tensor, t: Tensor, tau: float) -> Tensor:
    return tau * bare(z, t, tau)


HALVES: dict[Callable[[Tensor, Tensor, float], Tensor], list[str]] = {
    squared: [],
    multiplied_twice: [],
    by_pow: [],
    multiplied_once: ["loss_scale"],
}


@pytest.mark.parametrize("term", HALVES)
def test_half_of_the_square_of_two_is_no_first_power(term: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    found = HALVES[term]
    loop = Loop(loss=lambda loop, z, t, y: F.cross_entropy(z, y) + term(z, t, 2.0))
    assert problems(loop.diagnosis()) == found


NARROW: dict[str, tuple[Callable[[Tensor], Tensor], list[str]]] = {
    "first columns": (lambda z: z[:, :3], []),
    "last columns": (lambda z: z[:, -3:], ["class_order"]),
    "narrow": (lambda z: z.narrow(1, 2, 3), ["class_order"]),
    "split": (lambda z: z.split([2, 3], 1)[1], ["class_order"]),
    "by number": (lambda z: z.index_select(1, torch.arange(3)), []),
}


@pytest.mark.parametrize(("order", "found"), [([0, 1, 2], []), ([1, 4, 0], ["class_order"])])
def test_the_order_of_a_teacher_that_knows_fewer_classes(order: list[int], found: list[str]) -> None:
    old = nn.Linear(8, 3).eval()
    with torch.no_grad():
        old.weight.copy_(CENTRES[order])
        old.bias.fill_(0.0)
    loop = Loop(teacher=old, steps=24, loss=lambda loop, z, t, y: F.cross_entropy(z, y) + kd(z[:, :3], t, 2.0))
    diagnosis = loop.diagnosis()
    assert problems(diagnosis) == found
    if found:
        assert "classes 1, 4, 0, in this order" in diagnosis.problems[0].summary


@pytest.mark.parametrize(("sides", "found"), [("both", []), ("student", ["loss_minimum"])])
def test_classes_that_are_masked_on_one_side(sides: str, found: list[str]) -> None:
    def other_classes(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        mask = 1000.0 * F.one_hot(y, CLASSES)
        target = F.softmax(t / 4 - (mask if sides == "both" else 0), 1)
        return F.cross_entropy(z, y) + 16 * F.kl_div(F.log_softmax(z / 4 - mask, 1), target, reduction="batchmean")

    assert problems(Loop(loss=other_classes).diagnosis()) == found


@pytest.mark.parametrize("form", NARROW)
def test_columns_of_a_teacher_that_knows_fewer_classes(form: str) -> None:
    pick, found = NARROW[form]
    old = nn.Linear(8, 3).eval()
    with torch.no_grad():
        old.weight.copy_(CENTRES[:3])
        old.bias.fill_(0.0)
    loop = Loop(teacher=old, steps=24, loss=lambda loop, z, t, y: F.cross_entropy(z, y) + kd(pick(z), t, 2.0))
    assert problems(loop.diagnosis()) == found


def of_many(loop: Loop, z: Tensor, t: Tensor, y: Tensor, count: Callable[[Tensor], int]) -> Tensor:
    """Three teachers' answers [B, 3, K]; every third batch is half as large."""
    loop.extra = (loop.extra or 0) + 1
    rows = len(z) // (1 if loop.extra % 3 else 2)
    z, y, many = z[:rows], y[:rows], torch.stack([t, 0.9 * t, 1.1 * t], 1)[:rows]
    total = sum(bare(z, each, 2.0) for each in many.unbind(1))
    return F.cross_entropy(z, y) + 4 * total / count(many)


@pytest.mark.parametrize(("axis", "found"), [(0, ["loss_scale"]), (1, [])])
def test_a_mean_that_is_divided_by_the_batch_again(axis: int, found: list[str]) -> None:
    loop = Loop(loss=lambda loop, z, t, y: of_many(loop, z, t, y, lambda many: many.shape[axis]))
    assert problems(loop.diagnosis()) == found


class Wide(nn.Module):
    """A teacher of twelve classes; the student's are its columns 2, 5, 6, 9 and 11."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 12)
        with torch.no_grad():
            self.fc.weight.fill_(-0.5)
            self.fc.weight[WANTED] = CENTRES
            self.fc.bias.fill_(0.0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x)
        return out


WANTED = [2, 5, 6, 9, 11]


@pytest.mark.parametrize(
    ("columns", "expected"), [(list(range(CLASSES)), ["class_order"]), (WANTED[::-1], ["class_order"]), (WANTED, [])]
)
def test_columns_of_a_teacher_that_knows_more_classes(columns: list[int], expected: list[str]) -> None:
    loop = Loop(teacher=Wide().eval(), ask=lambda loop, x, number: torch.no_grad()(loop.teacher)(x)[:, columns])
    assert problems(loop.diagnosis()) == expected


def test_a_loss_of_a_known_form_is_described_as_it_would_be_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of an earlier loss of the same form says of a later one what looking at it again would say."""

    def losses(kept: bool) -> list[tuple[Any, ...]]:
        torch.manual_seed(0)
        if not kept:
            monkeypatch.setattr(facts, "form", lambda tape, raw: None)
        loop = Loop(loss=lambda loop, z, t, y: 0.3 * F.cross_entropy(z, hidden(y).clamp(min=0)) + 0.7 * kd(z, t))
        with audit() as watched:
            loop.run()
        found = []
        for step in watched._watch.phases[-1].steps:
            for each in step.backwards:
                assert each.answers is not None
                assert each.answers.teacher is not None
                assert each.answers.labels is not None
                assert each.answers.turned is not None
                terms = [(term.weight, term.value, term.labels, term.teacher, term.place) for term in each.terms]
                rows = [each.answers.student, each.answers.teacher, each.answers.labels, each.answers.turned.rows]
                found.append((each.in_full, each.value, terms, [row.tolist() for row in rows], each.answers.stored))
        return found

    once, anew = losses(True), losses(False)
    assert sum(not each[0] for each in once) >= 5
    assert once == anew


def test_weights_that_change_within_the_watched_steps_are_seen() -> None:
    loop = Loop(steps=12, extra=0)

    def ramp(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        loop.extra += 1
        return F.cross_entropy(z, y) + 0.01 * loop.extra * kd(z, t)

    loop.loss = ramp
    with audit() as watched:
        loop.run()
    steps = watched._watch.phases[-1].steps
    weights = [max(term.weight for term in each.terms if term.teacher) for step in steps for each in step.backwards]
    assert weights == pytest.approx([0.16 * (number + 1) for number in range(len(weights))])


def test_findings_name_the_line_of_the_loss() -> None:
    _, make = FAULTS["averaged over classes"]
    (finding,) = make().diagnosis().problems
    assert finding.location is not None
    assert finding.location.startswith("test_audit.py:")
    (terms,) = [finding.evidence["terms"]]
    kl = next(term for term in terms if term["name"] == "kl")
    assert kl["factor"] == pytest.approx(1 / CLASSES, rel=1e-3)
    assert kl["temperature"] == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize("loaded", [False, True])
def test_layers_that_are_frozen_as_they_were_drawn_are_a_problem(loaded: bool) -> None:
    loop = Loop(student=nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, CLASSES)))
    watched = audit()
    watched._watch.whole_script = True
    watched._watch.start()
    if loaded:
        loop.student.load_state_dict(copy.deepcopy(loop.student.state_dict()))
    loop.student.get_submodule("0").requires_grad_(False)
    loop.run()
    watched.close()
    assert ("parameters_left_out" in problems(watched.diagnosis)) != loaded


def test_a_divergence_of_a_large_weight_is_no_matter_of_balance() -> None:
    diagnosis = Loop(loss=lambda loop, z, t, y: 0.05 * F.cross_entropy(z, y) + kd(z, t)).diagnosis()
    (finding,) = [one for one in diagnosis.findings if one.check == "loss_balance"]
    assert finding.verdict == "ok"
    assert finding.evidence["ratio"] > 100


@pytest.mark.parametrize("fault", ["averaged over classes", "temperature squared missing"])
def test_the_line_to_write_instead_is_the_textbooks_loss(fault: str) -> None:
    (finding,) = FAULTS[fault][1]().diagnosis().problems
    assert finding.remedy is not None
    assert finding.remedy.code is not None
    z, t = torch.randn(2, 6, CLASSES).unbind()
    written = eval(finding.remedy.code, {"F": F, "student_logits": z, "teacher_logits": t})  # noqa: S307
    assert torch.allclose(written, kd(z, t))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (scheduled, True),
        (never_scheduled, True),
        (warmed_up, False),
        (restarted, False),
        (cycled, False),
        (in_sequence, False),
        (rated_by_hand, False),
    ],
)
def test_a_schedule_is_held_against_the_loops_around_the_step(make: Any, problem: bool) -> None:
    loop = Loop(optimizer=make)
    optimizer = make(loop)
    batches = loop.batches()
    with audit() as watched:
        optimizer = make(loop)
        for epoch in range(12):
            for number in range(2):
                x, y = batches[(2 * epoch + number) % 14]
                with torch.no_grad():
                    t = loop.teacher(x)
                optimizer.zero_grad()
                (F.cross_entropy(loop.student(x), y) + kd(loop.student(x), t)).backward()
                optimizer.step()
                if make not in (never_scheduled, rated_by_hand):
                    loop.extra.step()
    assert problems(watched.diagnosis) == (["schedule"] if problem else [])


@pytest.mark.parametrize(("milestones", "problem"), [([5, 9], True), ([60, 90], False)])
def test_milestones_long_before_the_end_of_a_stream_are_reported_when_it_has_ended(
    milestones: list[int], problem: bool
) -> None:
    """No loop says how many epochs there are: batches come without end, and the last is known by a number."""
    teacher, student = Teacher().eval(), Student()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    batches = itertools.cycle(Loop().batches())
    with audit() as watched:
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
        left = 120
        while left:
            x, y = next(batches)
            with torch.no_grad():
                t = teacher(x)
            optimizer.zero_grad()
            (F.cross_entropy(student(x), y) + kd(student(x), t)).backward()
            optimizer.step()
            schedule.step()
            left -= 1
    assert problems(watched.diagnosis) == (["schedule"] if problem else [])


@pytest.mark.parametrize("each_part", [True, False])
def test_a_schedule_of_updates_is_not_stepped_with_every_part_of_one(each_part: bool) -> None:
    teacher, student = Teacher().eval(), Student()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    with audit() as watched:
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: max(0.0, 1 - update / 40))
        for number, (x, y) in enumerate(Loop(steps=160).batches()):
            with torch.no_grad():
                t = teacher(x)
            ((F.cross_entropy(student(x), y) + kd(student(x), t)) / 4).backward()
            if number % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
            if each_part or number % 4 == 3:
                schedule.step()
    assert problems(watched.diagnosis) == (["schedule"] if each_part else [])
    if each_part:
        assert "4 times for each step of the optimizer" in watched.diagnosis.problems[0].summary


def summed(z: Tensor, t: Tensor, y: Tensor, tau: float = 3.0, power: int = 2) -> Tensor:
    keep = y != -100
    soft = F.kl_div(F.log_softmax(z[keep] / tau, -1), F.softmax(t[keep] / tau, -1), reduction="sum")
    return 0.4 * F.cross_entropy(z.flatten(0, -2), y.flatten(), reduction="sum") + 0.6 * tau**power * soft


# A part's loss of its logits, labels and the labels of its group; what the gradients are divided by; the problems.
GROUPED: dict[str, tuple[Callable[[Tensor, Tensor, Tensor, int], Tensor], bool, list[str]]] = {
    "sums divided by the group": (lambda z, t, y, n: summed(z, t, y) / n, False, []),
    "sums, the gradients divided by hand": (lambda z, t, y, n: summed(z, t, y), True, []),
    "means divided by their number": (
        lambda z, t, y, n: (
            (F.cross_entropy(z.flatten(0, -2), y.flatten()) + kd(z.flatten(0, -2), t.flatten(0, -2))) / 3
        ),
        False,
        [],
    ),
    "a sum beside a mean": (
        lambda z, t, y, n: F.cross_entropy(z.flatten(0, -2), y.flatten()) + summed(z, t, y),
        False,
        ["loss_scale"],
    ),
    "sums divided by the group, without the temperature's square": (
        lambda z, t, y, n: summed(z, t, y, power=0) / n,
        False,
        ["loss_scale"],
    ),
}


@pytest.mark.parametrize(
    ("name", "form"),
    [*((name, (ROWS,)) for name in GROUPED), ("sums divided by the group", (4, 5)), ("a sum beside a mean", (4, 5))],
)
def test_sums_over_an_accumulated_group_are_held_against_its_rows(name: str, form: tuple[int, ...]) -> None:
    loss, by_hand, expected = GROUPED[name]
    teacher, student = Teacher().eval(), nn.Linear(8, CLASSES)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    with audit() as watched:
        for number in range(5):
            parts = Loop(steps=3).batches()
            parts[2] = parts[2][0][: 8 + 2 * (number % 2)], parts[2][1][: 8 + 2 * (number % 2)]
            optimizer.zero_grad()
            group = (
                [
                    (x.unflatten(0, form), y.unflatten(0, form)) if len(y) == ROWS else (x[None], y[None])
                    for x, y in parts
                ]
                if len(form) > 1
                else parts
            )
            rows = sum(y.numel() for _, y in group)
            for x, y in group:
                with torch.no_grad():
                    t = teacher(x)
                loss(student(x), t, y, rows).backward()
            if by_hand:
                for p in student.parameters():
                    p.grad /= rows  # type: ignore[operator]
            optimizer.step()
    assert problems(watched.diagnosis) == expected


@pytest.mark.parametrize("detached", [False, True])
def test_a_teacher_that_goes_on_learning_beside_its_student_is_a_problem_where_the_student_pulls_it(
    detached: bool,
) -> None:
    """It was warmed up by an optimizer that was made together with the student's."""
    teacher, student = Student(), Student(width=4)
    of_teacher, of_student = (torch.optim.SGD(each.parameters(), lr=0.05) for each in (teacher, student))
    with audit(optimizer=[of_teacher, of_student]) as watched:
        for x, y in Loop(steps=40).batches():
            of_teacher.zero_grad()
            F.cross_entropy(teacher(x), y).backward()
            of_teacher.step()
        for x, y in Loop().batches():
            t, z = teacher(x), student(x)
            loss = F.cross_entropy(t, y) + F.cross_entropy(z, y) + kd(z, t.detach() if detached else t)
            for each in (of_teacher, of_student):
                each.zero_grad()
            loss.backward()
            for each in (of_teacher, of_student):
                each.step()
    assert problems(watched.diagnosis) == ([] if detached else ["teacher_gradient"])


def test_a_moving_average_that_is_called_by_its_parameters_alone_leaves_the_student_the_student() -> None:
    student = Student()
    mean = {name: p.detach().clone() for name, p in student.named_parameters()}
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    with audit() as watched:
        for x, y in Loop().batches():
            with torch.no_grad():
                t = torch.func.functional_call(student, mean, (x,))
            optimizer.zero_grad()
            z = student(x)
            (F.cross_entropy(z, y) + kd(z, t)).backward()
            optimizer.step()
            with torch.no_grad():
                for name, p in student.named_parameters():
                    mean[name].lerp_(p, 0.1)
    assert problems(watched.diagnosis) == []


def test_a_loss_that_is_compiled_hears_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: lambda *given: function(*given))
    loop = Loop()
    with audit() as watched:
        compiled = torch.compile(lambda z, t, y: F.cross_entropy(z, y) + kd(z, t))  # type: ignore[call-overload]
        loop.loss = lambda loop, z, t, y: compiled(z, t, y)
        loop.run()
    assert problems(watched.diagnosis) == []
    (heard,) = [one for one in watched.diagnosis.findings if one.check == "teacher_unused"]
    assert heard.verdict == "ok"


def test_stored_answers_are_followed_through_a_dataset() -> None:
    loop = Loop()
    x, y = (torch.cat(each) for each in zip(*loop.batches(), strict=True))
    with audit() as watched:
        with torch.no_grad():
            top, classes = loop.teacher(x).softmax(1).topk(2)
        loader = torch.utils.data.DataLoader(list(zip(x, y, top, classes, strict=True)), ROWS)
        optimizer = torch.optim.SGD(loop.student.parameters(), lr=0.05)
        for rows, labels, p, chosen in loader:
            log_q = loop.student(rows).log_softmax(1)
            optimizer.zero_grad()
            (F.nll_loss(log_q, labels) - (p * log_q.gather(1, chosen)).sum(1).mean()).backward()
            optimizer.step()
    assert problems(watched.diagnosis) == []
    (heard,) = [one for one in watched.diagnosis.findings if one.check == "teacher_unused"]
    assert heard.verdict == "ok"


@pytest.mark.parametrize("shift", [0, 1])
def test_answers_of_another_position_are_a_problem(shift: int) -> None:
    teacher, student = Teacher().eval(), nn.Linear(8, CLASSES)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    with audit() as watched:
        for x, y in Loop(steps=6).batches():
            x, y = x.unflatten(0, (4, 5)), y.unflatten(0, (4, 5))
            with torch.no_grad():
                t = teacher(x)
            z = student(x)
            soft = kd(z[:, : 5 - shift].flatten(0, 1), t[:, shift:].flatten(0, 1))
            optimizer.zero_grad()
            (F.cross_entropy(z.flatten(0, 1), y.flatten()) + soft).backward()
            optimizer.step()
    assert problems(watched.diagnosis) == (["stale_answers"] if shift else [])


@pytest.mark.parametrize("trained", [False, True])
def test_a_rate_that_leaves_random_weights_random_is_a_problem_and_no_other(trained: bool) -> None:
    loop = Loop()
    with audit() as watched:
        watched._watch.whole_script = True
        student = Student()
        if trained:
            train_alone(student, 40)
            student = copy.deepcopy(student)
        optimizer = torch.optim.SGD(student.parameters(), lr=1e-6)
        for epoch in range(7):
            for x, y in loop.batches()[2 * epoch : 2 * epoch + 2]:
                with torch.no_grad():
                    t = loop.teacher(x)
                z = student(x)
                optimizer.zero_grad()
                (F.cross_entropy(z, y) + kd(z, t)).backward()
                optimizer.step()
    if trained:
        assert problems(watched.diagnosis) == []
        return
    (finding,) = watched.diagnosis.problems
    assert finding.check == "learning_rate"
    assert finding.evidence["planned_steps"] == 14


def test_a_teacher_of_other_classes_is_not_judged_by_labels_of_new_ones() -> None:
    """Learning without forgetting: the student as it was keeps the old classes."""
    with audit() as watched:
        watched._watch.whole_script = True
        net = Student()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
        teacher = None
        for number in range(60):
            if number == 30:
                teacher = copy.deepcopy(net).eval()
            y = torch.randint(3, (ROWS,)) if teacher is None else torch.randint(3, CLASSES, (ROWS,))
            x = CENTRES[y] + 0.3 * torch.randn(ROWS, 8)
            loss = F.cross_entropy(net(x), y)
            if teacher is not None:
                with torch.no_grad():
                    t = teacher(x)
                loss = loss + 0.3 * kd(net(x), t)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert problems(watched.diagnosis) == []


def train_alone(net: nn.Module, steps: int) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    for x, y in Loop(steps=steps).batches():
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()


def test_a_teacher_of_an_early_epoch_is_weak_beside_what_the_script_trained() -> None:
    with audit() as watched:
        torch.manual_seed(1)
        net, teacher = Student(), Student()
        train_alone(net, 1)
        early = copy.deepcopy(net.state_dict())
        train_alone(net, 40)
        teacher.load_state_dict(early)
        Loop(student=Student(width=4), teacher=teacher.eval()).run()
    assert problems(watched.diagnosis) == ["teacher_weak"]


def test_a_new_head_of_a_trained_student_that_no_optimizer_holds_is_a_problem() -> None:
    with audit() as watched:
        loop = Loop()
        train_alone(loop.student, 10)
        optimizer = torch.optim.SGD(loop.student.parameters(), lr=0.05)
        loop.student.fc = nn.Linear(8, CLASSES)
        loop.optimizer = lambda loop: optimizer
        loop.run()
    assert problems(watched.diagnosis) == ["parameters_left_out"]


def test_a_step_with_a_closure_is_seen_whole() -> None:
    loop = Loop()
    projector = nn.Linear(CLASSES, CLASSES)
    optimizer = torch.optim.SGD(loop.student.parameters(), lr=0.05)
    batches = iter(loop.batches())

    def closure() -> Tensor:
        x, y = next(batches)
        z = loop.student(x)
        loss = F.cross_entropy(z, y) + F.mse_loss(projector(z), loop.teacher(x).detach())
        optimizer.zero_grad()
        loss.backward()
        return loss

    with audit() as watched:
        for _ in range(loop.steps):
            optimizer.step(closure)
    (finding,) = watched.diagnosis.problems
    assert finding.check == "parameters_left_out"
    assert "in 5 of 5 watched steps" in finding.summary


def test_a_line_search_that_evaluates_its_closure_again_loses_no_gradient() -> None:
    loop = Loop()
    optimizer = torch.optim.LBFGS(loop.student.parameters(), lr=0.5, max_iter=12, line_search_fn="strong_wolfe")
    x, y = (torch.cat(each) for each in zip(*loop.batches(), strict=True))
    with torch.no_grad():
        t = loop.teacher(x)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = kd(loop.student(x), t) + 0.1 * F.cross_entropy(loop.student(x), y)
        loss.backward()
        return loss

    with audit() as watched:
        for _ in range(4):
            optimizer.step(closure)
    assert not problems(watched.diagnosis)


@pytest.mark.parametrize(("parts", "verdict"), [(2, "ok"), (1, "warning")])
def test_an_accumulated_loss_is_divided_though_its_weight_is_large(parts: int, verdict: str) -> None:
    loop = Loop(step=lambda loop, optimizer, loss: accumulated(loop, optimizer, loss, parts))
    (finding,) = [one for one in loop.diagnosis().findings if one.check == "accumulation"]
    assert finding.verdict == verdict


def test_plain_classification_has_no_teacher_and_no_problem() -> None:
    net = Student()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with audit(student=net) as watched:
        for x, y in Loop().batches():
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    assert {finding.verdict for finding in watched.diagnosis.findings} == {"skipped"}
    assert "no teacher" in watched.diagnosis.findings[0].summary


def amp(loop: Loop, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    loop.extra = loop.extra or torch.amp.GradScaler("cpu", init_scale=2.0**8)
    optimizer.zero_grad()
    loop.extra.scale(loss).backward()
    loop.extra.step(optimizer)
    loop.extra.update()


def in_bfloat16(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return F.cross_entropy(z, y) + kd(z @ torch.eye(CLASSES), t)


def two_optimizers(loop: Loop, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    loop.extra = loop.extra or torch.optim.SGD(loop.student.get_submodule("fc").parameters(), lr=0.01)
    for each in (optimizer, loop.extra):
        each.zero_grad()
    loss.backward()
    for each in (optimizer, loop.extra):
        each.step()


def compiled() -> Loop:
    return Loop(student=torch.compile(Student(), backend="eager"))  # type: ignore[arg-type]


STYLES: dict[str, Callable[[], Loop]] = {
    "plain": lambda: Loop(student=nn.Sequential(Student(), nn.Dropout(0.2))),
    "autocast and scaler": lambda: Loop(step=amp, loss=in_bfloat16),
    "accumulation": HEALTHY["accumulated"],
    "several optimizers": lambda: Loop(step=two_optimizers),
    "compile": compiled,
}


def test_teachers_that_are_asked_under_vmap_are_accused_of_nothing() -> None:
    """The mapped module's answers are other tensors than those that reach the loss."""
    members = [Teacher().eval() for _ in range(3)]
    skeleton = copy.deepcopy(members[0]).to("meta")
    stacked, _ = torch.func.stack_module_state(members)
    stacked = {name: each.detach() for name, each in stacked.items()}

    def answers(loop: Loop, x: Tensor, number: int) -> Tensor:
        one = lambda parameters: torch.func.functional_call(skeleton, parameters, (x,)).detach()  # noqa: E731
        return torch.func.vmap(one)(stacked).softmax(-1).mean(0)

    diagnosis = Loop(
        ask=answers,
        loss=lambda loop, z, t, y: F.cross_entropy(z, y) + F.kl_div(F.log_softmax(z, 1), t, reduction="batchmean"),
    ).diagnosis()
    assert problems(diagnosis) == []


@pytest.mark.parametrize("style", STYLES)
def test_an_audit_leaves_every_bit_as_it_is(style: str) -> None:
    ends = []
    for audited in (False, True):
        torch.manual_seed(5)
        loop = STYLES[style]()
        if audited:
            loop.diagnosis()
        else:
            loop.run()
        grads = [p.grad for p in (*loop.student.parameters(), *loop.teacher.parameters())]
        ends.append((dict(loop.student.state_dict()), grads, loop.teacher.training, torch.get_rng_state()))
    (first, first_grads, *first_rest), (second, second_grads, *second_rest) = ends
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(first_grads, second_grads, strict=True))  # type: ignore[arg-type]
    assert first_rest[0] == second_rest[0]
    assert torch.equal(first_rest[1], second_rest[1])


def test_steps_that_pull_the_teacher_are_counted_once_however_many_terms_do() -> None:
    loop = Loop(student=Student(), teacher=Student(), optimizer=co_trained)
    loop.ask = lambda loop, x, number: loop.teacher(x)
    loop.loss = lambda loop, z, t, y: F.cross_entropy(z, y) + F.cross_entropy(t, y) + kd(z, t) + kd(z, t)
    (finding,) = loop.diagnosis().problems
    assert finding.check == "teacher_gradient"
    assert finding.evidence["steps"] <= loop.steps
    assert f"{finding.evidence['steps']} of {finding.evidence['steps']} watched steps" in finding.summary


def test_after_an_audit_torch_is_as_before() -> None:
    names = ["__call__", "zero_grad", "load_state_dict"]
    before = [getattr(nn.Module, name) for name in names], torch.autograd.backward, torch.compile
    Loop(steps=3).diagnosis()
    assert ([getattr(nn.Module, name) for name in names], torch.autograd.backward, torch.compile) == before
    assert torch.overrides._get_current_function_mode() is None  # type: ignore[no-untyped-call]


class Seen(nn.Module):
    """Notes whether torch's functions are seen while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append(torch.overrides._get_current_function_mode() is not None)  # type: ignore[no-untyped-call]
        return x


def test_networks_that_were_seen_whole_run_past_the_tape() -> None:
    seen = Seen(), Seen()
    Loop(student=nn.Sequential(Student(), seen[0]), teacher=nn.Sequential(Teacher(), seen[1]).eval()).diagnosis()
    for each in seen:
        assert each.modes[:14] == [True] * 2 + [False] * 12


def taught_by_a_tap(late: int) -> Loop:
    """What a hook takes from inside both networks goes through a projector that is in no optimizer."""
    loop = Loop(extra={"projector": nn.Linear(8, 8), "step": 0})
    loop.student.get_submodule("body").register_forward_hook(lambda module, x, out: loop.extra.update(z=out))
    loop.teacher.get_submodule("dropout").register_forward_hook(lambda module, x, out: loop.extra.update(t=out))

    def loss(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        loop.extra["step"] += 1
        total = F.cross_entropy(z, y) + kd(z, t)
        if loop.extra["step"] > late:
            total = total + F.mse_loss(loop.extra["projector"](loop.extra["z"]), loop.extra["t"])
        return total

    loop.loss = loss
    return loop


@pytest.mark.parametrize("late", [0, 4])
def test_what_hooks_take_from_inside_networks_is_seen_from_the_first_step_or_later(late: int) -> None:
    (finding,) = taught_by_a_tap(late).diagnosis().problems
    assert finding.check == "parameters_left_out"
    assert finding.location is not None


def wake(loop: Loop, step: int) -> None:
    if step == 6:
        loop.teacher.train()


def test_a_teacher_that_wakes_later_is_seen() -> None:
    loop = Loop(teacher=Teacher(0.4).eval(), before=wake)
    assert problems(loop.diagnosis()) == ["teacher_mode"]


class Both(nn.Module):
    """The teacher and the student in one module, which gives the loss where it is given labels."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = Student(), Teacher(0.4)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        z: Tensor = self.student(x)
        if y is None:
            return z
        with torch.no_grad():
            t = self.teacher(x)
        return F.cross_entropy(z, y) + kd(z, t)


def test_a_loss_inside_a_module_is_seen() -> None:
    both = Both()
    optimizer = torch.optim.SGD(both.student.parameters(), lr=0.05)
    with audit() as watched:
        for x, y in Loop().batches():
            both(x)
            optimizer.zero_grad()
            both(x, y).backward()
            optimizer.step()
    assert problems(watched.diagnosis) == ["teacher_mode"]


class Counting(TorchDispatchMode):
    """Counts the operations of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.made += 1
        return func(*args, **(kwargs or {}))


def operations(count: int) -> list[int]:
    """Of so many steps of one loop, how many operations of tensors each makes."""
    torch.manual_seed(0)
    teacher, student = nn.Linear(6, 5).eval(), nn.Linear(6, 5)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    x, y = torch.randn(16, 6), torch.randint(5, (16,))
    made = []
    for _ in range(count):
        with Counting() as counted:
            with torch.no_grad():
                t = teacher(x)
            z = student(x)
            loss = 0.3 * F.cross_entropy(z, y) + 0.7 * kd(z, t)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        made.append(counted.made)
    return made


def test_watching_a_step_takes_few_operations() -> None:
    alone = operations(3)[-1]
    with audit():
        watched = operations(10)
    # A step is described when the next one begins: the first four in full, the others by their values.
    extra = [each - alone for each in watched]
    assert max(extra) <= 150
    assert max(extra[6:]) <= 20


def test_an_error_of_the_loop_goes_on_and_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), audit() as watched:
        _ = 1 / 0
    assert {finding.verdict for finding in watched.diagnosis.findings} == {"skipped"}


@pytest.mark.parametrize("given", [{"steps": 0}, {"teacher": 3}, {"optimizer": [Student()]}])
def test_wrong_arguments_are_named(given: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=next(iter(given))):
        audit(**given)


def test_a_second_audit_inside_the_first_is_refused() -> None:
    with audit(), pytest.raises(BadInput, match="one audit at a time"):
        audit()


def test_a_name_says_that_a_divergence_is_reversed(tmp_path: Path) -> None:
    for number, (source, says) in enumerate(
        {
            "def reverse_kl(s, t): ...": True,
            "for x in reversed(kl_terms): ...": False,
            "x = reversed_kl(s, t)": True,
        }.items()
    ):
        (tmp_path / f"{number}.py").write_text(source, encoding="utf-8")
        assert ("reverse" in spoken(str(tmp_path / f"{number}.py"))) is says


def sequence(z: Tensor, t: Tensor, y: Tensor, dim: int) -> Tensor:
    return F.cross_entropy(z.flatten(0, 1), y.flatten()) - (t.softmax(-1) * z.log_softmax(dim)).sum(-1).mean()


def scrambled(z: Tensor, t: Tensor, y: Tensor, permute: bool) -> Tensor:
    rows = [(each.permute(0, 2, 3, 1) if permute else each).reshape(-1, CLASSES) for each in (z, t)]
    return F.cross_entropy(z, y) + kd(rows[0], rows[1])


# By the form of a batch: what is given, the networks, the loss, and whether a softmax runs over something else.
FORMS: dict[str, tuple[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], Any, Any, bool]] = {
    f"{form}, {'wrong' if wrong else 'right'}": (make, net, loss, wrong)
    for form, make, net, losses in (
        (
            "sequences",
            lambda x, y: (x.unflatten(0, (10, 2)), y.unflatten(0, (10, 2))),
            lambda: nn.Linear(8, CLASSES),
            (lambda z, t, y: sequence(z, t, y, -1), lambda z, t, y: sequence(z, t, y, 1)),
        ),
        (
            "maps",
            lambda x, y: (x[..., None, None].expand(-1, -1, 2, 3), y[:, None, None].expand(-1, 2, 3)),
            lambda: nn.Conv2d(8, CLASSES, 1),
            (lambda z, t, y: scrambled(z, t, y, True), lambda z, t, y: scrambled(z, t, y, False)),
        ),
    )
    for wrong, loss in enumerate(losses)
}


@pytest.mark.parametrize("name", FORMS)
def test_softmaxes_of_sequences_and_maps_run_over_the_classes(name: str) -> None:
    make, net, loss, wrong = FORMS[name]
    teacher, student = net().eval(), net()
    with torch.no_grad():
        teacher.weight.copy_(CENTRES.view_as(teacher.weight))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    with audit() as watched:
        for x, y in (make(*each) for each in Loop().batches()):
            with torch.no_grad():
                t = teacher(x)
            optimizer.zero_grad()
            loss(student(x), t, y).backward()
            optimizer.step()
    assert problems(watched.diagnosis) == (["batch_split"] if wrong else [])


@pytest.mark.parametrize("awake", [False, True])
def test_answers_that_were_stored_with_dropout_in_training_mode_are_a_problem(awake: bool) -> None:
    loop = Loop(teacher=Teacher(0.4).train(awake))
    with audit() as watched:
        train_alone(Student(), 2)
        with torch.no_grad():
            kept = torch.cat([loop.teacher(x) for x, _ in loop.batches()])
        rows = iter(range(loop.steps))
        loop.ask = lambda loop, x, number: kept[ROWS * (i := next(rows)) : ROWS * i + ROWS]
        loop.run()
    assert problems(watched.diagnosis) == (["teacher_mode"] if awake else [])


def test_labels_of_several_classes_at_once_are_no_stored_answers() -> None:
    net, labels = nn.Linear(6, 4), (torch.rand(64, 4) > 0.5).float()
    images, optimizer = torch.randn(64, 6), torch.optim.SGD(net.parameters(), lr=0.1)
    with audit(steps=4) as watched:
        for rows in torch.arange(64).split(16):
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(net(images[rows]), labels[rows]).backward()
            optimizer.step()
    assert "stale_answers" not in {each.check for each in watched.diagnosis.findings if each.verdict != "skipped"}


def test_rows_of_stored_answers_that_are_stacked_into_a_batch_are_answers() -> None:
    images, labels = torch.randn(64, 6), torch.randint(4, (64,))
    items = list(zip(images, labels, torch.randn(64, 4), strict=True))
    net = nn.Linear(6, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with audit(steps=4) as watched:
        for start in range(0, 64, 16):
            x, y, t = (torch.stack(each) for each in zip(*items[start : start + 16], strict=True))
            loss = F.cross_entropy(net(x), y) + kd(net(x), t)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    (finding,) = (each for each in watched.diagnosis.findings if each.check == "teacher_unused")
    assert finding.verdict == "ok", finding


class OwnTeacher(Loop):
    """One network answers without gradients first and learns next; ``extra`` switches its mode at each turn."""

    def run(self) -> None:
        epoch, answer, learn = self.extra
        optimizer = self.optimizer(self)
        for number, (x, y) in enumerate(self.batches()):
            if number % 5 == 0:
                epoch(self.student)
            answer(self.student)
            with torch.no_grad():
                t = self.student(0.8 * x)
            learn(self.student)
            loss = F.cross_entropy(z := self.student(x), y) + kd(z, t)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, CLASSES))


def left_asleep(net: nn.Module) -> None:
    """Training mode, with the batch norms left out."""
    net.train()
    freeze_norms(net, False)


def wake_up(net: nn.Module) -> None:
    net.train()


def fall_asleep(net: nn.Module) -> None:
    net.eval()


@cache
def holder(net: nn.Module) -> nn.Module:
    """A module that holds a network, and lives on."""
    return nn.ModuleList([net])


def as_it_is(net: nn.Module) -> None:
    """Leave its mode as it is."""


OWN: dict[str, tuple[Callable[[], nn.Module], tuple[Callable[[nn.Module], object], ...], list[str]]] = {
    "train() each epoch": (with_dropout, (wake_up, fall_asleep, as_it_is), ["student_mode"]),
    "train() of a module that holds it": (
        with_dropout,
        (lambda net: holder(net).train(), fall_asleep, as_it_is),
        ["student_mode"],
    ),
    "batch norm": (Student, (wake_up, fall_asleep, as_it_is), ["student_mode"]),
    "train(False) in place of eval()": (
        with_dropout,
        (wake_up, lambda net: net.train(False), as_it_is),
        ["student_mode"],
    ),
    "train() again": (with_dropout, (wake_up, fall_asleep, wake_up), []),
    "always in evaluation mode": (with_dropout, (fall_asleep, as_it_is, as_it_is), []),
    "put into evaluation mode in each step, and never out of it": (with_dropout, (as_it_is, fall_asleep, as_it_is), []),
    "answers in training mode": (with_dropout, (wake_up, as_it_is, as_it_is), []),
    "neither dropout nor batch norm": (lambda: nn.Linear(8, CLASSES), (wake_up, fall_asleep, as_it_is), []),
    "dropout of 0": (
        lambda: nn.Sequential(nn.Dropout(0.0), nn.Linear(8, CLASSES)),
        (wake_up, fall_asleep, as_it_is),
        [],
    ),
    "frozen batch norm": (Student, (left_asleep, fall_asleep, left_asleep), []),
}


@pytest.mark.parametrize("form", OWN)
def test_a_network_that_answers_as_its_own_teacher_is_trained_in_training_mode(form: str) -> None:
    make, switches, expected = OWN[form]
    assert problems(OwnTeacher(student=make(), extra=switches).diagnosis()) == expected


def test_a_network_that_was_trained_before_may_be_tuned_in_evaluation_mode() -> None:
    with audit() as watched:
        net = with_dropout().train()
        train_alone(net, 10)
        OwnTeacher(student=net, extra=(fall_asleep, as_it_is, as_it_is)).run()
    assert problems(watched.diagnosis) == []


def test_a_network_that_was_trained_before_is_left_in_evaluation_mode() -> None:
    with audit() as watched:
        net = with_dropout()
        train_alone(net, 10)
        OwnTeacher(student=net, extra=(wake_up, fall_asleep, as_it_is)).run()
    assert problems(watched.diagnosis) == ["student_mode"]


# What the features of raw images are made of: each has a unit of its own.
OFFSETS, UNITS = torch.linspace(-9, 12, 8), torch.tensor([4.0, 0.5, 6.0, 0.4, 5.0, 3.0, 9.0, 0.3])


def raw(x: Tensor) -> Tensor:
    return OFFSETS + UNITS * x


def standardised(x: Tensor) -> Tensor:
    return (x - torch.tensor([0.6] * 5 + [0.0] * 3)) / torch.tensor([1.24] * 5 + [0.3] * 3)


def other_kind(x: Tensor) -> Tensor:
    """Other images in the same units: two of the classes look alike."""
    return standardised(x @ torch.eye(8)[[1, 0, 2, 3, 4, 6, 5, 7]])


def knowing(how: str, student: Callable[[Tensor], Tensor], ask: Callable[[Tensor], Tensor], labels: bool = True) -> Any:
    """A loop whose teacher was trained, or is evaluated, on standardised features before."""
    teacher = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    optimizer = torch.optim.Adam(teacher.parameters(), lr=0.05)

    def train() -> None:
        for x, y in Loop(steps=40).batches():
            optimizer.zero_grad()
            F.cross_entropy(teacher(standardised(x)), y).backward()
            optimizer.step()

    if how == "evaluated":
        train()
    with audit() as watched:
        if how == "trained":
            train()
        elif how == "evaluated":
            for x, y in Loop(steps=2).batches():
                with torch.no_grad():
                    assert (teacher(standardised(x)).argmax(1) == y).float().mean() > 0.9
        teacher.eval().requires_grad_(False)
        net = Student()
        learns = torch.optim.SGD(net.parameters(), lr=0.05)
        for x, y in Loop().batches():
            z = net(student(x))
            loss = kd(z, teacher(ask(x))) + (F.cross_entropy(z, y) if labels else 0.0)
            learns.zero_grad()
            loss.backward()
            learns.step()
    return watched.diagnosis


KNOWN: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "raw features": (raw, True),
    "raw features, all in one other unit": (lambda x: raw(x) / 16, True),
    "raw features between 0 and 1": (lambda x: (raw(x) + 30) / 90, True),
    "standardised": (standardised, False),
    "noise on them": (lambda x: standardised(x) + 0.3 * torch.randn(x.shape), False),
    "mixed with another row": (lambda x: 0.7 * standardised(x) + 0.3 * standardised(x).flip(0), False),
    "images of another kind": (other_kind, False),
}


@pytest.mark.parametrize("how", ["trained", "evaluated"])
@pytest.mark.parametrize("form", KNOWN)
def test_a_teacher_that_is_asked_in_other_units_than_it_knows(form: str, how: str) -> None:
    ask, is_wrong = KNOWN[form]
    diagnosis = knowing(how, lambda x: x, ask)
    assert ("teacher_input" in problems(diagnosis)) is is_wrong
    assert not is_wrong or problems(diagnosis) == ["teacher_input"]


def test_units_are_not_judged_without_labels() -> None:
    assert "teacher_input" not in problems(knowing("trained", raw, raw, labels=False))


@pytest.mark.parametrize(("form", "is_wrong"), [("raw", True), ("raw / 4", True), ("known", False), ("other", False)])
def test_units_are_judged_by_the_labels_that_the_teacher_was_trained_on(form: str, is_wrong: bool) -> None:
    centres = torch.randn(CLASSES, 32)
    y = torch.randint(CLASSES, (20 * ROWS,))
    known = centres[y] + 0.5 * torch.randn(len(y), 32)
    known = (known - known.mean(0)) / known.std(0)
    units, offsets = torch.where(torch.arange(32) < 2, 60.0, 0.3), torch.arange(32.0) / 8
    other = centres[y] + 0.5 * torch.randn(len(y), 32)  # images that the teacher did not see
    given = {"raw": units * known + offsets, "raw / 4": (units * known + offsets) / 4, "known": known}
    given["other"] = units * other + offsets
    teacher, student = (nn.Sequential(nn.Linear(32, 12), nn.ReLU(), nn.Linear(12, CLASSES)) for _ in range(2))
    with audit() as watched:
        optimizer = torch.optim.Adam(teacher.parameters(), lr=0.02)
        for _ in range(2):
            for rows in torch.arange(len(y)).split(ROWS):
                optimizer.zero_grad()
                F.cross_entropy(teacher(known[rows]), y[rows]).backward()
                optimizer.step()
        teacher.eval().requires_grad_(False)
        optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
        for rows in torch.arange(len(y)).split(ROWS):
            optimizer.zero_grad()
            kd(student(given[form][rows]), teacher(given[form][rows])).backward()
            optimizer.step()
    assert problems(watched.diagnosis) == (["teacher_input"] if is_wrong else [])


SAME_IMAGES: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "as trained": (lambda x: x, False),
    "a fifth": (lambda x: x / 5, True),
    "moved": (lambda x: x + 3, True),
    "noise on them": (lambda x: x / 2 + 0.1 * torch.randn_like(x), False),
    "each its own brightness": (lambda x: x * torch.empty(len(x), 1).uniform_(0.2, 0.6), False),
}


@pytest.mark.parametrize("form", list(SAME_IMAGES))
def test_the_very_images_in_other_units_are_reported_though_every_label_is_named(form: str) -> None:
    """Classes so far apart that the teacher names them in any units: only how sure it is changes."""
    change, is_wrong = SAME_IMAGES[form]
    centres = 3 * torch.randn(CLASSES, 32)
    y = torch.randint(CLASSES, (20 * ROWS,))
    x = centres[y] + 0.1 * torch.randn(len(y), 32)
    teacher, student = (nn.Linear(32, CLASSES) for _ in range(2))
    with audit() as watched:
        for network, asked in ((teacher, False), (student, True)):
            optimizer = torch.optim.SGD(network.parameters(), lr=0.003 if network is teacher else 0.05)
            for rows in torch.arange(len(y)).split(ROWS):
                loss = F.cross_entropy(network(x[rows]), y[rows])
                if asked:
                    with torch.no_grad():
                        answers = teacher(change(x[rows]))
                    loss = loss + kd(network(x[rows]), answers)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            network.eval()
    found = problems(watched.diagnosis)
    assert ("teacher_input" in found) is is_wrong


@pytest.mark.parametrize(
    ("form", "is_wrong"), [("raw features", True), ("standardised", False), ("noise on them", False)]
)
def test_units_are_judged_where_the_teacher_was_asked_before_the_loop(form: str, is_wrong: bool) -> None:
    change = KNOWN[form][0]
    teacher = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    optimizer = torch.optim.Adam(teacher.parameters(), lr=0.05)
    batches = [(change(x), y) for x, y in Loop().batches()]
    with audit() as watched:
        for x, y in Loop(steps=40).batches():
            optimizer.zero_grad()
            F.cross_entropy(teacher(standardised(x)), y).backward()
            optimizer.step()
        teacher.eval()
        with torch.no_grad():
            stored = [teacher(x) for x, _ in batches]
        net = Student()
        learns = torch.optim.SGD(net.parameters(), lr=0.05)
        for (x, y), t in zip(batches, stored, strict=True):
            z = net(x)
            learns.zero_grad()
            (kd(z, t) + F.cross_entropy(z, y)).backward()
            learns.step()
    assert problems(watched.diagnosis) == (["teacher_input"] if is_wrong else [])


class InAnotherOrder(Teacher):
    """It numbers the classes in another way."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, [3, 0, 4, 1, 2]]


@pytest.mark.parametrize("is_mended", [True, False])
def test_columns_are_judged_in_the_order_in_which_they_are_compared(is_mended: bool) -> None:
    def ask(loop: Loop, x: Tensor, number: int) -> Tensor:
        with torch.no_grad():
            t: Tensor = loop.teacher(x)
        return t[:, [1, 3, 4, 0, 2]] if is_mended else t

    loop = Loop(teacher=InAnotherOrder().eval(), ask=ask)
    with audit() as watched:
        loop.run()
    assert problems(watched.diagnosis) == ([] if is_mended else ["class_order"])


def test_a_queue_of_earlier_answers_is_no_store_of_this_batchs() -> None:
    loop = Loop(steps=24)
    optimizer = loop.optimizer(loop)
    with torch.no_grad():
        queue = loop.teacher(torch.cat([x for x, _ in loop.batches()[:4]]))
    with audit() as watched:
        for number, (x, _) in enumerate(loop.batches()):
            with torch.no_grad():
                t = loop.teacher(x)
            bank = torch.cat([queue, t])
            target = (t @ bank.T / 0.5).softmax(1)
            optimizer.zero_grad()
            (-(target * (loop.student(x) @ bank.T).log_softmax(1)).sum(1).mean()).backward()
            optimizer.step()
            place = number % 4 * ROWS
            queue[place : place + ROWS] = t
    assert "stale_answers" not in problems(watched.diagnosis)


@pytest.mark.parametrize("each_batch", [True, False])
def test_a_decay_that_is_over_within_the_first_epoch_is_found_before_that_ends(each_batch: bool) -> None:
    """The length of the loader is known where its loop began before the first step of the phase."""
    teacher, student = Teacher().eval(), Student()
    x, y = (torch.cat(each) for each in zip(*Loop(steps=20).batches(), strict=True))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), ROWS)

    def train(epochs: int) -> None:
        optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 5)
        for _ in range(epochs):
            for rows, labels in loader:
                with torch.no_grad():
                    t = teacher(rows)
                optimizer.zero_grad()
                (F.cross_entropy(student(rows), labels) + kd(student(rows), t)).backward()
                optimizer.step()
                if each_batch:
                    schedule.step()
            if not each_batch:
                schedule.step()

    with audit(steps=12) as watched:
        train(9)
    assert problems(watched.diagnosis) == (["schedule"] if each_batch else [])


class Tagger(nn.Module):
    """Reads sequences: its hidden states and its logits for each position."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(8, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = self.body(x).tanh()
        return h, self.fc(h)


LENGTH = 7


def sequences(lengths: Callable[[], Tensor], number: float = 0.0) -> list[tuple[Tensor, Tensor, Tensor]]:
    found = []
    for _ in range(14):
        y, n = torch.randint(CLASSES, (8, LENGTH)), lengths()
        empty = torch.arange(LENGTH) >= n.unsqueeze(1)
        x = CENTRES[y] + 0.3 * torch.randn(8, LENGTH, 8)
        found.append((x.masked_fill(empty.unsqueeze(2), number), n, y.masked_fill(empty, -100)))
    return found


def varied() -> Tensor:
    return torch.randint(2, LENGTH, (8,))


def apart(h: Tensor, t: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(h, t, dim=-1)


def cosine(h: Tensor, t: Tensor, y: Tensor, n: Tensor, z: Tensor) -> Tensor:
    mask = (y != -100).float()  # noqa: F841 - the fault
    return apart(h, t).mean()


def of_lengths(h: Tensor, t: Tensor, y: Tensor, n: Tensor, z: Tensor) -> Tensor:
    mask = torch.arange(LENGTH) < n[:, None]  # noqa: F841 - the fault
    return F.mse_loss(h, t)


def expanded(h: Tensor, t: Tensor, y: Tensor, n: Tensor, z: Tensor) -> Tensor:
    mask = (y == -100).unsqueeze(-1).expand_as(h)  # noqa: F841 - the fault
    return F.smooth_l1_loss(h, t)


def pooled(h: Tensor, t: Tensor, y: Tensor, n: Tensor, z: Tensor) -> Tensor:
    mask = y >= 0  # noqa: F841 - the fault
    return F.mse_loss(h.mean(1), t.mean(1))


def masked_elsewhere(h: Tensor, t: Tensor, y: Tensor, n: Tensor, z: Tensor) -> Tensor:
    return F.mse_loss(h, t) + 0.1 * z.square().mean(-1)[y != -100].mean()


def for_accuracy(h: Tensor, t: Tensor, y: Tensor, n: Tensor, z: Tensor) -> Tensor:
    mask = y != -100
    assert 0 <= float((z.argmax(-1) == y)[mask].float().mean()) <= 1
    return F.mse_loss(h, t)


def for_a_count(h: Tensor, t: Tensor, y: Tensor, n: Tensor, z: Tensor) -> Tensor:
    assert bool((y != -100).any())
    return F.mse_loss(h, t)


def averaged_by_mask(h: Tensor, t: Tensor, y: Tensor, n: Tensor, z: Tensor) -> Tensor:
    mask = (y != -100).float()
    return (apart(h, t) * mask).sum() / mask.sum()


PADDED: dict[str, tuple[Callable[..., Tensor], str]] = {
    "a cosine before its mask": (cosine, "problem"),
    "a mask of the lengths": (of_lengths, "problem"),
    "an expanded mask": (expanded, "problem"),
    "a mean over all positions": (pooled, "problem"),
    "all positions, without a mask": (lambda h, t, y, n, z: F.mse_loss(h, t), "warning"),
    "all positions, another term masked": (masked_elsewhere, "warning"),
    "all positions, a mask for the accuracy": (for_accuracy, "warning"),
    "all positions, a mask for a count": (for_a_count, "warning"),
    "a mean by the mask": (averaged_by_mask, "skipped"),
    "picked positions": (lambda h, t, y, n, z: F.mse_loss(h[y != -100], t[y != -100]), "skipped"),
    "the first position": (lambda h, t, y, n, z: F.mse_loss(h[:, 0], t[:, 0]), "skipped"),
}


def of_padded(
    term: Callable[..., Tensor], batches: list[tuple[Tensor, Tensor, Tensor]], hand_mask: bool = False
) -> Diagnosis:
    student, teacher = Tagger(), Tagger().requires_grad_(False)
    with audit() as watched:
        optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
        for x, n, y in batches:
            mask = torch.arange(LENGTH) >= n[:, None] if hand_mask else None
            h, z = student(x, mask)
            t, _ = teacher(x, mask)
            loss = F.cross_entropy(z.transpose(1, 2), y) + term(h, t, y, n, z)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return watched.diagnosis


def verdict_of(diagnosis: Diagnosis, check: str) -> str:
    return next(finding.verdict for finding in diagnosis.findings if finding.check == check)


@pytest.mark.parametrize("form", PADDED)
def test_features_of_padded_positions(form: str) -> None:
    term, verdict = PADDED[form]
    diagnosis = of_padded(term, sequences(varied))
    assert verdict_of(diagnosis, "ignored_rows") == verdict
    assert problems(diagnosis) == (["ignored_rows"] if verdict == "problem" else [])


@pytest.mark.parametrize("lengths", [varied, lambda: torch.full((8,), 5)])
def test_a_mask_that_the_networks_are_given_is_read(lengths: Callable[[], Tensor]) -> None:
    diagnosis = of_padded(lambda h, t, y, n, z: F.mse_loss(h, t), sequences(lengths), hand_mask=True)
    assert verdict_of(diagnosis, "ignored_rows") == "warning"


def test_positions_without_a_label_that_hold_something_are_no_padding() -> None:
    batches = [(x + torch.randn(x.shape), n, y) for x, n, y in sequences(varied)]
    assert verdict_of(of_padded(cosine, batches), "ignored_rows") == "skipped"


@pytest.mark.parametrize("hand_mask", [False, True])
def test_prompts_without_labels_are_no_padding(hand_mask: bool) -> None:
    batches = [
        (x, n, y.index_fill(1, torch.arange(3), -100)) for x, n, y in sequences(lambda: torch.full((8,), LENGTH))
    ]
    assert verdict_of(of_padded(cosine, batches, hand_mask), "ignored_rows") == "skipped"


def test_the_last_evaluation_of_a_search_is_no_skipped_step() -> None:
    """Few steps of many evaluations each: the steps that are watched end within a search, or with its last part."""
    loop = Loop()
    optimizer = torch.optim.LBFGS(loop.student.parameters(), max_iter=20, line_search_fn="strong_wolfe")
    x, y = (torch.cat(each) for each in zip(*loop.batches(), strict=True))
    with torch.no_grad():
        t = loop.teacher(x).softmax(1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        z = loop.student(x)
        loss = F.kl_div(F.log_softmax(z, 1), t, reduction="batchmean") + F.cross_entropy(z, y)
        loss.backward()
        return loss

    with audit() as watched:
        for _ in range(5):
            optimizer.step(closure)
    assert not problems(watched.diagnosis)
    assert verdict_of(watched.diagnosis, "skipped_steps") in ("ok", "skipped")


# Two students, each with its optimizer: in which order it clears, goes backward and steps, for both or for one by one.
IN_TURNS: dict[str, tuple[tuple[str, ...], bool]] = {
    "cleared one by one, stepped together": (("clear backward", "step"), True),
    "one by one": (("clear backward step",), True),
    "all together": (("clear", "backward", "step"), True),
    "never cleared": (("backward", "step"), False),
    "cleared before the steps": (("backward", "clear step"), False),
}


@pytest.mark.parametrize("by_module", [False, True])
@pytest.mark.parametrize("name", IN_TURNS)
def test_two_optimizers_whose_losses_go_backward_in_turns(name: str, by_module: bool) -> None:
    order, right = IN_TURNS[name]
    loop, other = Loop(steps=20), Student()
    networks = [loop.student, other]
    optimizers = [torch.optim.Adam(each.parameters(), 0.01) for each in networks]
    with audit() as watched:
        for x, y in loop.batches():
            outputs = [each(x) for each in networks]
            with torch.no_grad():
                t = loop.teacher(x)
            losses = [
                F.cross_entropy(z, y) + kd(z, t) + kd(z, peer.detach(), 1.0)
                for z, peer in zip(outputs, reversed(outputs), strict=True)
            ]
            for acts in order:
                for network, optimizer, loss in zip(networks, optimizers, losses, strict=True):
                    for act in acts.split():
                        if act == "backward":
                            loss.backward()
                        elif act == "step":
                            optimizer.step()
                        else:
                            (network if by_module else optimizer).zero_grad()
    assert problems(watched.diagnosis) == ([] if right else ["accumulation"])


def each_row(tau: float, divided: bool) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def row(z: Tensor, t: Tensor, one_hot: Tensor) -> Tensor:
        soft = F.kl_div((z / tau).log_softmax(0), (t / tau).softmax(0), reduction="batchmean" if divided else "sum")
        return soft * (1 if divided else tau**2) + torch.logsumexp(z, 0) - (z * one_hot).sum()

    return row


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("divided", [False, True])
def test_a_loss_of_each_row_under_vmap_is_followed(divided: bool, captured: bool) -> None:
    row = each_row(3.0, divided)

    def loss(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        one_hot = F.one_hot(y, CLASSES).to(z)
        if captured:
            rows = torch.arange(len(z))
            each: Tensor = torch.func.vmap(lambda i, z: row(z, t[i], one_hot[i]))(rows, z)
        else:
            each = torch.func.vmap(row)(z, t, one_hot)
        return each.mean()

    assert problems(Loop(loss=loss).diagnosis()) == (["loss_scale"] if divided and not captured else [])


def test_a_loss_under_vmap_that_the_teacher_does_not_reach() -> None:
    def loss(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        kd(z.detach(), t)
        each: Tensor = torch.func.vmap(lambda z, one_hot: torch.logsumexp(z, 0) - (z * one_hot).sum())(
            z, F.one_hot(y, CLASSES).to(z)
        )
        return each.mean()

    assert problems(Loop(loss=loss).diagnosis()) == ["teacher_unused"]


class Embedder(Student):
    def forward(self, x: Tensor, embed: bool = False) -> Any:
        h = self.body(x)
        return (h, self.fc(h)) if embed else self.fc(h)


@pytest.mark.parametrize("same_images", [False, True])
def test_labels_of_another_pass_do_not_judge_the_teachers_input(same_images: bool) -> None:
    """Features of many images are compared, and few others have labels."""
    loop, teacher, student = Loop(steps=60), Embedder(32), Embedder()
    optimizer = torch.optim.Adam(teacher.parameters(), 0.02)
    for x, y in loop.batches():
        optimizer.zero_grad()
        F.cross_entropy(teacher(x), y).backward()
        optimizer.step()
    teacher.eval().requires_grad_(False)
    connector = nn.Linear(8, 32)
    optimizer = torch.optim.Adam([*student.parameters(), *connector.parameters()], 0.01)
    with audit() as watched:
        for (x, y), (few, labels) in zip(loop.batches(), reversed(loop.batches()), strict=True):
            x, y = (few, labels) if same_images else (x, y)
            with torch.no_grad():
                t, _ = teacher(x if not same_images else x * 0.02, embed=True)
            h, _ = student(x, embed=True)
            loss = F.cross_entropy(student(few), labels) + F.mse_loss(connector(h), t)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert problems(watched.diagnosis) == (["teacher_input"] if same_images else [])


@pytest.mark.parametrize("again", [False, True])
def test_a_later_stage_needs_an_optimizer_of_what_it_thaws(again: bool) -> None:
    teacher, student = Student(16), Student()
    optimizer = torch.optim.Adam(teacher.parameters(), 0.02)
    batches = Loop(steps=400).batches()
    for x, y in batches[:60]:
        optimizer.zero_grad()
        F.cross_entropy(teacher(x), y).backward()
        optimizer.step()
    teacher.eval().requires_grad_(False)
    connector = nn.Linear(8, 16)
    student.fc.requires_grad_(False)
    kept = [each for each in student.parameters() if each.requires_grad]
    optimizer = torch.optim.Adam([*kept, *connector.parameters()], 0.01)

    def step(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    with audit() as watched:
        for x, _ in batches[:100]:
            with torch.no_grad():
                t = teacher.features(x)
            step(F.mse_loss(connector(student.features(x)), t))
        student.fc.requires_grad_(True)
        if again:
            optimizer = torch.optim.Adam(student.parameters(), 0.01)
        for x, y in batches:
            with torch.no_grad():
                t = teacher(x)
            z = student(x)
            step(kd(z, t) + F.cross_entropy(z, y))
    assert problems(watched.diagnosis) == ([] if again else ["parameters_left_out"])


ACCURACIES = [0.105, 0.4, 0.62, 0.705, 0.735, 0.8, 0.81, 0.83, 0.845, 0.86]
FALLING = [2.302, 1.871, 1.422, 1.38, 1.31, 1.2712, 1.1013, 0.99, 0.951, 0.93]
OVERFITTED = [0.5211, 0.4873, 0.5124, 0.5391, 0.5744, 0.6022, 0.6483, 0.6671, 0.7013, 0.7211]


@pytest.mark.parametrize(
    ("mode", "metrics", "verdict"),
    [
        ("min", [100 * each for each in ACCURACIES], "problem"),
        ("min", [n / 137 for n in (14, 55, 85, 97, 101, 110, 111, 114, 116, 118)], "problem"),
        ("max", FALLING, "problem"),
        ("max", ACCURACIES, "ok"),
        ("max", [100 * each for each in ACCURACIES], "ok"),
        ("min", FALLING, "ok"),
        ("min", OVERFITTED, "ok"),
        ("min", [round(each, 2) for each in OVERFITTED], "ok"),
    ],
)
def test_a_plateau_schedule_is_given_what_it_waits_for(mode: Any, metrics: list[float], verdict: str) -> None:
    loop = Loop(steps=100)
    optimizer = torch.optim.SGD(loop.student.parameters(), lr=0.05)
    with audit() as watched:
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, factor=0.5, patience=2)
        for number, (x, y) in enumerate(loop.batches()):
            with torch.no_grad():
                t = loop.teacher(x)
            z = loop.student(x)
            optimizer.zero_grad()
            (kd(z, t) + F.cross_entropy(z, y)).backward()
            optimizer.step()
            if number % 10 == 9:
                schedule.step(metrics[number // 10])
    assert verdict_of(watched.diagnosis, "schedule") == verdict
    assert problems(watched.diagnosis) == (["schedule"] if verdict == "problem" else [])


@pytest.mark.parametrize("never", [False, True])
def test_a_plateau_schedule_is_stepped(never: bool) -> None:
    def step(loop: Loop, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loop.extra[1] += 1
        if loop.extra[1] % 10 == 0 and not never:
            loop.extra[0].step(float(loss.detach()))

    def made(loop: Loop) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(loop.student.parameters(), lr=0.05)
        loop.extra = [torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer), 0]
        return optimizer

    diagnosis = Loop(steps=40, optimizer=made, step=step).diagnosis()
    assert problems(diagnosis) == (["schedule"] if never else [])


@pytest.mark.parametrize("turns", [False, True])
def test_blocks_that_take_turns_are_not_frozen_for_good(turns: bool) -> None:
    """Body and head are in one optimizer; what does not have its turn requires no gradient."""
    loop = Loop(steps=40)
    student = loop.student
    assert isinstance(student, Student)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    with audit() as watched:
        watched._watch.whole_script = True
        for number, (x, y) in enumerate(loop.batches()):
            turn = number % 2 if turns else 1
            student.body.requires_grad_(turn == 0)
            student.fc.requires_grad_(turn == 1)
            with torch.no_grad():
                t = loop.teacher(x)
            z = student(x)
            optimizer.zero_grad()
            (kd(z, t) + F.cross_entropy(z, y)).backward()
            optimizer.step()
    assert problems(watched.diagnosis) == ([] if turns else ["parameters_left_out"])


@pytest.mark.parametrize("labels", [False, True])
def test_views_of_a_moving_teacher_may_have_nothing_in_common(labels: bool) -> None:
    loop = Loop(steps=20)
    teacher = copy.deepcopy(loop.student).requires_grad_(False)
    optimizer = torch.optim.SGD(loop.student.parameters(), lr=0.05)
    with audit() as watched:
        for x, y in loop.batches():
            with torch.no_grad():
                t = teacher(torch.randn(x.shape))
            z = loop.student(x)
            loss = kd(z, t) + (F.cross_entropy(z, y) if labels else 0.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for mine, own in zip(teacher.parameters(), loop.student.parameters(), strict=True):
                    mine.lerp_(own, 0.1)
    assert ("stale_answers" in problems(watched.diagnosis)) == labels


@pytest.mark.parametrize("pulled", [False, True])
def test_a_temperature_that_learns_is_no_teacher(pulled: bool) -> None:
    class Temperature(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.raw = nn.Parameter(torch.zeros(()))

        def forward(self) -> Tensor:
            return 1 + 4 * torch.sigmoid(self.raw)

    loop, peer, temperature = Loop(steps=20), Student(), Temperature()
    learners = [*loop.student.parameters(), *temperature.parameters(), *peer.parameters()]
    optimizer = torch.optim.SGD(learners, lr=0.02)
    with audit() as watched:
        for x, y in loop.batches():
            with torch.no_grad():
                t = loop.teacher(x)
            z, tau, other = loop.student(x), temperature(), peer(x)
            soft = F.kl_div((z / tau).log_softmax(1), (t / tau).softmax(1), reduction="batchmean") * tau**2
            loss = F.cross_entropy(z, y) + soft + F.cross_entropy(other, y)
            if pulled:
                loss = loss + F.kl_div(z.log_softmax(1), other.softmax(1), reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert problems(watched.diagnosis) == (["teacher_gradient"] if pulled else [])


@pytest.mark.parametrize("divided", [False, True])
def test_a_gram_matrix_is_a_sum_over_places(divided: bool) -> None:
    class Convolution(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 6, 3, padding=1)
            self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(6, channels, 3), nn.ReLU(), nn.Flatten())
            self.fc = nn.Linear(36 * channels, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            stem = self.stem(x)
            return self.fc(self.body(stem)), stem

    def gram(f: Tensor) -> Tensor:
        f = f.flatten(2)
        return torch.bmm(f, f.transpose(1, 2)) / (f.shape[2] if divided else 1)

    x = 2 * torch.randn(400, 1, 8, 8)
    y = x.unflatten(2, (2, 4)).unflatten(4, (2, 4)).mean((3, 5)).flatten(1).argmax(1)
    teacher, student = Convolution(16), Convolution(4)
    for network, distilled in ((teacher, False), (student, True)):
        optimizer = torch.optim.Adam(network.parameters(), 0.005)
        with audit() as watched:
            for rows in torch.arange(400).repeat(4).split(40):
                logits, stem = network(x[rows])
                loss = F.cross_entropy(logits, y[rows])
                if distilled:
                    with torch.no_grad():
                        t, target = teacher(x[rows])
                    loss = loss + kd(logits, t, 2.0) + 5 * F.mse_loss(gram(stem), gram(target))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        network.eval()
    assert problems(watched.diagnosis) == ([] if divided else ["loss_balance"])


@pytest.mark.parametrize(
    ("kd_weight", "divided", "problem"), [(0.8, True, True), (0.8, False, False), (0.55, True, True)]
)
def test_a_mean_over_rows_is_not_divided_by_their_number_again(kd_weight: float, divided: bool, problem: bool) -> None:
    """All batches have one size, and the two weights are to add up to 1."""

    def loss(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return kd_weight * kd(z, t) / (len(z) if divided else 1) + (1 - kd_weight) * F.cross_entropy(z, y)

    assert problems(Loop(loss=loss).diagnosis()) == (["loss_scale"] if problem else [])


def hand_over(loop: Loop, optimizer: torch.optim.Optimizer, losses: list[Tensor]) -> None:
    parameters = list(loop.student.parameters())
    each = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    for parameter, *gradients in zip(parameters, *each, strict=True):
        parameter.grad = torch.stack(gradients).sum(0)
    optimizer.step()


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("terms", [1, 2])
def test_gradients_that_are_asked_for_and_handed_over_are_a_backward_pass(terms: int, mean: bool) -> None:
    def soft(z: Tensor, t: Tensor) -> Tensor:
        reduction = "mean" if mean else "batchmean"
        return 16 * F.kl_div(F.log_softmax(z / 4, 1), F.softmax(t / 4, 1), reduction=reduction)

    loop = Loop()
    optimizer = loop.optimizer(loop)
    with audit() as watched:
        for x, y in loop.batches():
            z = loop.student(x)
            with torch.no_grad():
                t = loop.teacher(x)
            losses = [F.cross_entropy(z, y), soft(z, t)]
            hand_over(loop, optimizer, losses if terms == 2 else [losses[0] + losses[1]])
    assert "teacher_mode" in {each.check for each in watched.diagnosis.findings if each.verdict == "ok"}
    assert problems(watched.diagnosis) == (["loss_scale"] if mean else [])


def test_a_penalty_and_norms_of_gradients_are_no_backward_pass() -> None:
    def stepped(loop: Loop, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        # As GradNorm and gradient penalties do it: gradients are looked at, and backward comes after.
        (gradient,) = torch.autograd.grad(loss, [loop.student.fc.weight], create_graph=True)
        optimizer.zero_grad()
        (loss + 1e-3 * gradient.square().sum()).backward()
        optimizer.step()

    diagnosis = Loop(step=stepped).diagnosis()
    assert not diagnosis.problems
    assert "teacher_unused" in {each.check for each in diagnosis.findings if each.verdict == "ok"}


@pytest.mark.parametrize("soft", ["right", "turned"])
def test_answers_to_several_questions_at_once(soft: str) -> None:
    """Several labels a row, by binary cross-entropy: a decision for each class, and no largest one."""
    loop = Loop(steps=30, teacher=nn.Linear(8, CLASSES).requires_grad_(False), student=nn.Linear(8, CLASSES))
    with torch.no_grad():
        loop.teacher.weight.copy_(6 * torch.randn(CLASSES, 8))  # type: ignore[operator, union-attr]

    def loss(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        several = (y[:, None] >= torch.arange(CLASSES)).float()
        target = torch.sigmoid(t if soft == "right" else -t)
        hard = F.binary_cross_entropy_with_logits(z, several)
        return 0.3 * hard + 0.7 * F.binary_cross_entropy_with_logits(z, target)

    loop.loss = loss
    assert problems(loop.diagnosis()) == ([] if soft == "right" else ["loss_minimum"])


@pytest.mark.parametrize("wrap", [Variable, lambda t: Variable(t.detach().data, requires_grad=False)])
@pytest.mark.parametrize("reduction", ["mean", "batchmean"])
def test_a_teachers_answer_in_a_variable_of_old_is_the_teachers(
    wrap: Callable[[Tensor], Tensor], reduction: str
) -> None:
    def loss(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        soft = F.kl_div(F.log_softmax(z / 4, 1), F.softmax(wrap(t) / 4, 1), reduction=reduction)
        return 0.1 * F.cross_entropy(z, Variable(y)) + 0.9 * 16 * soft

    before = Variable.__new__
    diagnosis = Loop(loss=loss).diagnosis()
    assert Variable.__new__ is before
    assert problems(diagnosis) == (["loss_scale"] if reduction == "mean" else [])
    assert "teacher_mode" in {each.check for each in diagnosis.findings if each.verdict == "ok"}


@pytest.mark.parametrize("as_module", [False, True])
@pytest.mark.parametrize("cut", [False, True])
def test_peers_that_answer_before_either_steps(as_module: bool, cut: bool) -> None:
    loop, peers = Loop(steps=40), [Student(), Student(12)]
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.05) for each in peers]
    divergence = nn.KLDivLoss(reduction="batchmean") if as_module else partial(F.kl_div, reduction="batchmean")
    with audit() as watched:
        for x, y in loop.batches():
            answers = [each(x) for each in peers]
            for own, other, optimizer in zip(answers, reversed(answers), optimizers, strict=True):
                target = other.detach() if cut else Variable(other)
                loss = F.cross_entropy(own, y) + divergence(own.log_softmax(1), target.softmax(1))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    assert not problems(watched.diagnosis)


def test_a_sum_divided_by_all_its_numbers_is_a_mean_over_the_classes_too() -> None:
    def loss(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        soft = F.kl_div((z / 2).log_softmax(1), (t / 2).log_softmax(1), reduction="sum", log_target=True)
        return 0.5 * F.cross_entropy(z, y) + 0.5 * soft * 4 / z.numel()

    (found,) = Loop(loss=loss).diagnosis().problems
    assert found.check == "loss_scale"
    assert found.evidence["terms"][1]["factor"] == pytest.approx(1 / CLASSES)
    assert f"{CLASSES} times too weak" in found.summary


@pytest.mark.parametrize("start", ["0", "tensor", "labels"])
@pytest.mark.parametrize("fault", ["", "mean", "summed features"])
def test_a_loss_that_is_added_up_in_place(start: str, fault: str) -> None:
    def loss(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        soft = F.kl_div(F.log_softmax(z / 4, 1), F.softmax(t / 4, 1), reduction=fault or "batchmean")
        total: Any = {"0": 0, "tensor": torch.zeros(()), "labels": 0.1 * F.cross_entropy(z, y)}[start]
        if start != "labels":
            total += 0.1 * F.cross_entropy(z, y)
        total += 0.9 * 16 * soft
        total /= 1
        return total  # type: ignore[no-any-return]

    if fault == "summed features":
        loop = Loop(loss=partial(added_features, start))
        loop.optimizer = lambda loop: torch.optim.SGD(loop.student.parameters(), lr=1e-4)
        assert problems(loop.diagnosis()) == ["loss_balance"]
        return
    diagnosis = Loop(loss=loss).diagnosis()
    assert problems(diagnosis) == (["loss_scale"] if fault else [])
    (scale,) = [each for each in diagnosis.findings if each.check == "loss_scale"]
    assert [term["usual"] for term in scale.evidence["terms"]] == pytest.approx([0.1, 0.9])


def added_features(start: str, loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    total: Any = torch.zeros(()) if start == "tensor" else 0
    total += F.cross_entropy(z, y)
    total += 40 * (z - t).repeat(1, 8).square().sum()
    return total  # type: ignore[no-any-return]


@pytest.mark.parametrize("learnt", [False, True])
def test_a_teacher_that_is_heard_through_a_connector_has_weight(learnt: bool) -> None:
    loop, connectors = Loop(), (nn.Linear(CLASSES, 6), nn.Linear(CLASSES, 6))

    def loss(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        near = F.mse_loss(connectors[0](z), connectors[1](t))
        return F.cross_entropy(z, y) + 0.0 * kd(z, t) + (0.1 * near if learnt else 0.0)

    loop.loss = loss
    loop.optimizer = lambda loop: torch.optim.SGD(
        [*loop.student.parameters(), *(p for each in connectors for p in each.parameters())], lr=0.05
    )
    warned = {each.check for each in loop.diagnosis().findings if each.verdict == "warning"}
    assert ("teacher_unused" in warned) is not learnt


def test_stored_answers_of_a_weak_teacher_that_was_asked_with_gradients() -> None:
    """As a widespread script does it: no ``no_grad``, through numpy, by the number of a batch that is shuffled."""
    loop, weak = Loop(steps=120), Teacher().eval()
    with torch.no_grad():
        weak.fc.weight.copy_(0.3 * CENTRES + 0.35 * torch.randn(CLASSES, 8))
    batches = loop.batches()
    with audit() as watched:
        stored = [weak(x).detach().numpy() for x, _ in batches]
        optimizer = loop.optimizer(loop)
        for number in torch.randperm(len(batches)).tolist():
            x, y = batches[number]
            z = loop.student(x)
            loss = F.cross_entropy(z, y) + kd(z, torch.from_numpy(stored[number - 1]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert problems(watched.diagnosis) == ["stale_answers"]


@pytest.mark.parametrize("graded", [False, True])
def test_parts_in_training_mode_are_an_evaluation_s_fault_without_gradients_alone(graded: bool) -> None:
    """With gradients the parts may be what is trained, inside a network that stays in evaluation mode."""
    networks, x = Networks(), torch.randn(6, 4)
    module = nn.Sequential(nn.Sequential(nn.BatchNorm1d(4)), nn.Linear(4, 3)).eval()
    module[0].train()
    with torch.set_grad_enabled(graded):
        networks.note_asked(module, (x,), module(x), [], None, None)
    assert networks.asked[-1].live == (frozenset() if graded else {"batch norm"})


@pytest.mark.parametrize("in_place", [False, True])
def test_a_divergence_that_is_summed_over_its_classes_by_hand_is_no_sum_of_features(in_place: bool) -> None:
    """With 20 classes and weights of .1 and .9, as it is published; its value is the one before it is multiplied."""
    loop = Loop(steps=40, teacher=nn.Linear(8, 20).requires_grad_(False), student=nn.Linear(8, 20))
    assert isinstance(loop.teacher, nn.Linear)
    loop.teacher.weight.mul_(9.0)

    def loss(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        soft = F.kl_div((z / 4).log_softmax(1), (t / 4).softmax(1), reduction="none").sum(1).mean()
        if in_place:
            soft *= 4**2
        else:
            soft = soft * 4**2
        return 0.1 * F.cross_entropy(z, y) + 0.9 * soft

    loop.loss = loss
    (balance,) = [each for each in loop.diagnosis().findings if each.check == "loss_balance"]
    assert balance.verdict == "ok"
    assert 2 < balance.evidence["ratio"] < 40


class OwnDivergence(torch.autograd.Function):
    """KL(teacher‖student) at τ = 4, with a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, t: Tensor) -> Tensor:
        p, q = (z / 4).softmax(1), (t / 4).softmax(1)
        ctx.save_for_backward(p, q)
        return 16 * (q * (q.log() - p.log())).sum(1).mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        p, q = ctx.saved_tensors
        return grads[0] * 4 * (p - q) / len(p), None


@pytest.mark.parametrize("asleep", [False, True])
def test_a_loss_with_a_backward_pass_of_its_own_has_a_gradient(asleep: bool) -> None:
    loop = Loop(loss=lambda loop, z, t, y: F.cross_entropy(z, y) + OwnDivergence.apply(z, t))  # type: ignore[no-any-return]
    loop.teacher = Teacher(dropout=0.5).train(asleep)
    before = torch.autograd.Function.__dict__["apply"]
    assert problems(loop.diagnosis()) == (["teacher_mode"] if asleep else [])
    assert torch.autograd.Function.__dict__["apply"] is before


@pytest.mark.parametrize("reduction", ["mean", "batchmean"])
def test_a_student_whose_parameters_are_handed_over_is_the_one_that_learns(reduction: str) -> None:
    loop = Loop()
    weights = {name: p.detach().clone().requires_grad_() for name, p in loop.student.named_parameters()}
    optimizer = torch.optim.SGD(weights.values(), lr=0.05)
    loop.student.train()
    with audit() as watched:
        for x, y in loop.batches():
            with torch.no_grad():
                t = loop.teacher(x)
            z = torch.func.functional_call(loop.student, weights, (x,))
            soft = F.kl_div((z / 4).log_softmax(1), (t / 4).softmax(1), reduction=reduction)
            loss = 0.1 * F.cross_entropy(z, y) + 0.9 * 16 * soft
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert problems(watched.diagnosis) == (["loss_scale"] if reduction == "mean" else [])


def test_a_teacher_is_traced_as_it_is_without_the_audit() -> None:
    """What a watcher reads of a tensor would be an operation of the trace, which torch checks against a second one."""
    loop, images = Loop(), torch.randn(6, 8)
    alone = torch.jit.trace(copy.deepcopy(loop.teacher), images)
    with audit() as watched:
        optimizer = loop.optimizer(loop)
        loop.teacher = torch.jit.trace(loop.teacher, images)
        assert str(loop.teacher.graph).count("aten::") == str(alone.graph).count("aten::")
        loop.optimizer = lambda loop: optimizer
        loop.run()
    assert not problems(watched.diagnosis)
    assert "teacher_mode" in {each.check for each in watched.diagnosis.findings}


@pytest.mark.parametrize(("optimizer", "verdict"), [(torch.optim.AdamW, "warning"), (torch.optim.SGD, "problem")])
def test_a_factor_of_the_whole_loss_matters_where_the_optimizer_feels_it(
    optimizer: type[torch.optim.Optimizer], verdict: str
) -> None:
    def averaged_over_classes(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return 16 * F.kl_div(F.log_softmax(z / 4, 1), F.softmax(t / 4, 1), reduction="mean")

    loop = Loop(loss=averaged_over_classes, optimizer=lambda loop: optimizer(loop.student.parameters(), lr=0.01))  # type: ignore[call-arg]
    (found,) = [finding for finding in loop.diagnosis().findings if finding.check == "loss_scale"]
    assert found.verdict == verdict
    assert ("AdamW divides gradients by their size" in found.summary) == (verdict == "warning")


def accumulated_epochs(
    made_for: int, stepped_by_batch: bool, kind: Callable[..., Any], stop: int | None, epochs: int = 6
) -> Diagnosis:
    """Epochs of twelve batches, four of which make a step; of a script that is stopped, the first steps alone."""
    torch.manual_seed(0)
    student, teacher = Student(), Teacher().eval()
    y = torch.randint(CLASSES, (12 * ROWS,))
    data = torch.utils.data.TensorDataset(CENTRES[y] + 0.3 * torch.randn(len(y), 8), y)
    loader = torch.utils.data.DataLoader(data, batch_size=ROWS, shuffle=True)
    made = 0
    with audit() as watched:
        optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
        more = {"max_lr": 0.05} if kind is torch.optim.lr_scheduler.OneCycleLR else {}
        schedule = kind(optimizer, **{"total_steps" if more else "T_max": made_for}, **more)
        for _epoch in range(epochs):
            for number, (x, labels) in enumerate(loader, 1):
                with torch.no_grad():
                    t = teacher(x)
                z = student(x)
                ((F.cross_entropy(z, labels) + kd(z, t)) / 4).backward()
                if number % 4 == 0:
                    optimizer.step()
                    optimizer.zero_grad()
                    made += 1
                if stepped_by_batch or number % 4 == 0:
                    schedule.step()
            if stop is not None and made >= stop:
                break
    return watched.diagnosis


@pytest.mark.parametrize("stop", [None, 9])
@pytest.mark.parametrize(
    ("made_for", "by_batch", "kind", "found"),
    [
        (18, True, torch.optim.lr_scheduler.CosineAnnealingLR, ["schedule"]),
        (72, False, torch.optim.lr_scheduler.CosineAnnealingLR, ["schedule"]),
        (72, False, torch.optim.lr_scheduler.OneCycleLR, ["schedule"]),
        (18, False, torch.optim.lr_scheduler.CosineAnnealingLR, []),
        (72, True, torch.optim.lr_scheduler.CosineAnnealingLR, []),
        (18, False, torch.optim.lr_scheduler.OneCycleLR, []),
    ],
)
def test_schedules_of_accumulated_batches(
    made_for: int, by_batch: bool, kind: type[Any], found: list[str], stop: int | None
) -> None:
    assert problems(accumulated_epochs(made_for, by_batch, kind, stop)) == found


@pytest.mark.parametrize(
    ("student", "teacher", "found"), [(1.0, 3.0, ["temperature_one_sided"]), (3.0, 3.0, []), (1.0, 1.0, [])]
)
def test_binary_temperatures_of_both_sides(student: float, teacher: float, found: list[str]) -> None:
    def tags(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        hard = F.binary_cross_entropy_with_logits(z, F.one_hot(y, CLASSES).float())
        return hard + F.binary_cross_entropy_with_logits(z / student, torch.sigmoid(t / teacher).detach())

    assert problems(Loop(loss=tags).diagnosis()) == found


@pytest.mark.parametrize(("number", "found"), [(-100, ["ignored_rows"]), (255, [])])
def test_a_mask_of_a_number_that_no_label_has(number: int, found: list[str]) -> None:
    def void(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        labels = torch.where(torch.arange(len(y)) % 4 == 0, 255, y)
        rows = F.kl_div(F.log_softmax(z, 1), F.softmax(t, 1), reduction="none").sum(1)
        keep = (labels != number).float()
        return F.cross_entropy(z, labels, ignore_index=255) + (rows * keep).sum() / keep.sum()

    assert problems(Loop(loss=void).diagnosis()) == found


class TwoHeads(nn.Module):
    """The head of an old task and that of a new one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.old, self.new = nn.Linear(16, CLASSES), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.old(h), self.new(h)


def test_the_value_of_another_head_makes_no_term_negative() -> None:
    """Powers of probabilities with an epsilon, as in published code for learning without forgetting."""

    def power(logits: Tensor) -> Tensor:
        p = logits.softmax(1).sqrt()
        return p / p.sum(1, keepdim=True)

    def retained(z: Tensor, t: Tensor) -> Tensor:
        p = power(z) + 1e-5 / CLASSES
        return -(power(t) * (p / p.sum(1, keepdim=True)).log()).sum(1).mean()

    student, teacher = TwoHeads(), Teacher().eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    with audit() as watched:
        for x, y in Loop().batches():
            with torch.no_grad():
                t = teacher(x)
            old, new = student(x)
            optimizer.zero_grad()
            (retained(old, t) + F.cross_entropy(new, y)).backward()
            optimizer.step()
    assert problems(watched.diagnosis) == []
    (found,) = [each for each in watched.diagnosis.findings if each.check == "loss_identity"]
    assert found.summary.endswith("soft CE at τ = 2.")


@pytest.mark.parametrize(("training", "found"), [(True, ["teacher_mode"]), (False, [])])
def test_a_teachers_backbone_that_is_called_apart_from_its_head(training: bool, found: list[str]) -> None:
    whole = Teacher()
    backbone = nn.Sequential(nn.BatchNorm1d(8), nn.Identity()).train(training)
    head = whole.eval()

    def ask(loop: Loop, x: Tensor, number: int) -> Tensor:
        with torch.no_grad():
            return head(backbone(x))  # type: ignore[no-any-return]

    assert [each for each in problems(Loop(ask=ask).diagnosis()) if each == "teacher_mode"] == found


def test_a_new_leaf_keeps_the_gradient_from_the_student() -> None:
    def copied(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z, y) + kd(z.new_tensor(z, requires_grad=True), t)

    assert problems(Loop(loss=copied).diagnosis()) == ["student_no_gradient"]


@pytest.mark.parametrize(("own", "found"), [(False, ["schedule"]), (True, [])])
def test_a_schedule_of_an_optimizer_that_makes_no_step(own: bool, found: list[str]) -> None:
    def remade(loop: Loop) -> torch.optim.Optimizer:
        first = torch.optim.SGD(loop.student.parameters(), lr=0.05)
        second = torch.optim.SGD(loop.student.parameters(), lr=0.05)
        loop.extra = torch.optim.lr_scheduler.StepLR(second if own else first, 6, 0.5)
        return second

    def step(loop: Loop, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loop.extra.step()

    assert problems(Loop(optimizer=remade, step=step).diagnosis()) == found


def test_a_sigmoid_before_binary_cross_entropy_with_logits_is_no_matter_of_temperature() -> None:
    def twice(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(torch.sigmoid(z / 2), torch.sigmoid(t / 2))

    assert "temperature_one_sided" not in problems(Loop(loss=twice).diagnosis())


def momentum(loop: Loop, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for own, other in zip(loop.teacher.parameters(), loop.student.parameters(), strict=False):
            own.data = own.data * 0.99 + other.data * 0.01


def test_a_target_network_behind_a_predictor_is_a_moving_average() -> None:
    """As in BYOL: in training mode on purpose, and the student's side goes through a predictor of its own."""

    class Online(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.predictor = Student(), nn.Linear(CLASSES, CLASSES)

    online = Online()
    target = copy.deepcopy(online.body).train()
    optimizer = torch.optim.SGD(online.parameters(), lr=0.05)
    with audit() as watched:
        for x, _ in Loop(steps=24).batches():
            predicted = online.predictor(online.body(x + 0.1 * torch.randn_like(x)))
            with torch.no_grad():
                answer = target(x + 0.1 * torch.randn_like(x))
            loss = (2 - 2 * F.cosine_similarity(predicted, answer, dim=-1)).mean()
            momentum(Loop(student=online.body, teacher=target), optimizer, loss)
    assert problems(watched.diagnosis) == []


def test_views_of_a_contrast_with_a_queue_may_have_nothing_in_common() -> None:
    """As in MoCo: the momentum encoder gets another view, in another order that is undone, and all labels are 0."""
    student = Student()
    teacher = copy.deepcopy(student)
    queue = F.normalize(torch.randn(CLASSES, 40), dim=0)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    with audit() as watched:
        for x, _ in Loop(steps=24).batches():
            q = F.normalize(student(torch.randn_like(x) + 0.2 * x), dim=1)
            with torch.no_grad():
                order = torch.randperm(len(x))
                k = F.normalize(teacher((torch.randn_like(x) + 0.2 * x)[order]), dim=1)[order.argsort()]
            logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.clone().detach()], 1) / 0.2
            loss = F.cross_entropy(logits, torch.zeros(len(x), dtype=torch.long))
            momentum(Loop(student=student, teacher=teacher), optimizer, loss)
            queue = torch.cat([k.T, queue], 1)[:, :40]
    assert problems(watched.diagnosis) == []


def test_a_teacher_that_learns_from_the_student_is_no_frozen_one() -> None:
    """As in Meta Pseudo Labels: it steps after the student, by what the student's answers became."""

    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, CLASSES))

    student, teacher = net(), net()
    own, its = (torch.optim.SGD(each.parameters(), lr=0.05, momentum=0.9) for each in (student, teacher))
    with audit() as watched:
        for x, y in Loop(steps=40).batches():
            given = teacher(x)
            chosen = given[8:].detach().argmax(1)
            answered = student(x)
            before = F.cross_entropy(answered[:8].detach(), y[:8])
            loss = F.cross_entropy(answered[8:], chosen)
            own.zero_grad()
            loss.backward()
            own.step()
            with torch.no_grad():
                gained = F.cross_entropy(student(x[:8]), y[:8]) - before
            loss = F.cross_entropy(given[:8], y[:8]) + gained * F.cross_entropy(given[8:], chosen)
            its.zero_grad()
            loss.backward()
            its.step()
    assert problems(watched.diagnosis) == []


def _after_a_task(tau: float, student: nn.Module | None = None) -> list[str]:
    """Checks with a problem where what was learned first is kept by a divergence without τ²."""
    first = Student()
    learner = torch.optim.SGD(first.parameters(), lr=0.05)
    again = first if student is None else student
    with audit() as watched:
        for x, y in Loop(steps=14).batches():
            learner.zero_grad()
            F.cross_entropy(first(x), y).backward()
            learner.step()
        teacher = copy.deepcopy(first).eval().requires_grad_(False)
        loop = Loop(
            student=again,
            teacher=teacher,
            steps=20,
            loss=lambda loop, z, t, y: (
                F.cross_entropy(z, y)
                + F.kl_div(F.log_softmax(z / tau, 1), F.softmax(t / tau, 1), reduction="batchmean")
            ),
        )
        loop.run()
    return problems(watched.diagnosis)


def test_learning_without_forgetting_has_no_square_of_its_temperature() -> None:
    """So it is published, τ = 2; at a higher temperature, or with a student that begins anew, it is a fault."""
    assert _after_a_task(2.0) == []
    assert "loss_scale" in _after_a_task(4.0)
    assert "loss_scale" in _after_a_task(2.0, Student())


class Exits(nn.Module):
    """Two answers of one pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Student(), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.first.features(x)
        return self.first.fc(features), self.second(features)


def _exits(compare: Callable[[Tensor, Tensor], Tensor]) -> list[str]:
    net = Exits()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    with audit() as watched:
        for x, y in Loop(steps=20).batches():
            early, late = net(x)
            loss = F.cross_entropy(early, y) + F.cross_entropy(late, y) + compare(early, late)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return problems(watched.diagnosis)


def test_an_exit_that_teaches_another_is_detached() -> None:
    """Both ways, or towards the mean of both, the pull is meant."""
    assert _exits(kd) == ["teacher_gradient"]
    assert _exits(lambda early, late: kd(early, late.detach())) == []
    assert _exits(lambda early, late: kd(early, late) + kd(late, early)) == []
    assert _exits(lambda early, late: kd(early, (early + late) / 2) + kd(late, (early + late) / 2)) == []


def test_two_passes_of_one_network_may_pull_each_other() -> None:
    """As in TRADES: the answer to the clean image learns from that to the moved one."""

    def loss(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        moved = loop.student(loop.extra + 0.1 * torch.randn_like(loop.extra))
        return F.cross_entropy(z, y) + F.kl_div(F.log_softmax(moved, 1), F.softmax(z, 1), reduction="batchmean")

    def ask(loop: Loop, x: Tensor, number: int) -> Tensor:
        loop.extra = x
        return x

    assert problems(Loop(loss=loss, ask=ask, steps=20).diagnosis()) == []


@pytest.mark.parametrize(("rate", "tuned", "found"), [(1e-3, False, True), (1e-2, False, False), (1e-3, True, False)])
def test_adam_at_a_rate_for_fine_tuning_leaves_random_weights_random(rate: float, tuned: bool, found: bool) -> None:
    """A schedule that falls from the first step on is no warm-up; a network whose norms were trained is not random."""
    loop = Loop()
    with audit() as watched:
        watched._watch.whole_script = True
        student = Student()
        if tuned:
            with torch.no_grad():
                student.body[1].weight.uniform_(0.8, 1.2)  # as a file of weights would
        optimizer = torch.optim.AdamW(student.parameters(), lr=rate)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=14)
        for epoch in range(7):
            for x, y in loop.batches()[2 * epoch : 2 * epoch + 2]:
                with torch.no_grad():
                    t = loop.teacher(x)
                z = student(x)
                optimizer.zero_grad()
                (F.cross_entropy(z, y) + kd(z, t)).backward()
                optimizer.step()
                schedule.step()
    assert problems(watched.diagnosis) == (["learning_rate"] if found else [])


class Bag(nn.Module):
    """Clears the row of its padding where it is made: a view of a parameter, changed in place without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.fc = nn.EmbeddingBag(12, 8, padding_idx=0), nn.Linear(8, 1)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.fc(self.bag(ids))
        return out


def _of_words(divergence: Callable[[Tensor, Tensor], Tensor]) -> Diagnosis:
    with audit() as watched:
        words = torch.randint(1, 12, (20, ROWS, 6))
        teacher: nn.Module | None = None
        for _ in range(2):
            net = Bag()  # the second one within the audit of the first
            optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
            for ids in words:
                z = net(ids)
                loss = F.binary_cross_entropy_with_logits(z.squeeze(1), (ids.float().mean(1) > 6).float())
                if teacher is not None:
                    with torch.no_grad():
                        t = teacher(ids)
                    loss = loss + divergence(z, t)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            teacher = net.eval()
    return watched.diagnosis


def test_a_softmax_of_one_logit_is_a_constant() -> None:
    (finding,) = _of_words(kd).problems
    assert finding.check == "target_constant"
    assert "one number a row" in finding.summary

    def two(z: Tensor, t: Tensor) -> Tensor:
        return kd(*(torch.cat([torch.zeros_like(each), each], 1) for each in (z, t)))

    assert _of_words(two).problems == ()


def test_an_error_of_the_audit_itself_ends_the_audit_and_not_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> Loop:
        torch.manual_seed(1)
        loop = Loop()
        loop.run()
        return loop

    plain = trained()
    count = itertools.count(1)
    record = Tape.record

    def fails(self: Tape, *args: Any) -> None:
        if next(count) == 40:
            raise RuntimeError("no such view")
        record(self, *args)

    monkeypatch.setattr(Tape, "record", fails)
    monkeypatch.delenv("STILLROOM_AUDIT_DEBUG", raising=False)
    with audit() as watched:
        audited = trained()
    assert next(count) == 41
    assert "no such view" in watched.diagnosis.headline
    for name, each in plain.student.state_dict().items():
        assert torch.equal(each, audited.student.state_dict()[name])


@pytest.mark.parametrize(
    ("weights", "lost"),
    [
        ({"label": 0.5, "kd": 0.5}, "labels_unused"),
        ({"ce": 0.5, "distill": 0.5}, "teacher_unused"),
        ({"ce": 0.5, "kd": 0.5}, None),
        ({"ce": 0.0, "kd": 1.0}, None),
    ],
)
def test_a_weight_under_another_name_is_none(weights: dict[str, float], lost: str | None) -> None:
    def loss(loop: Loop, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        terms = {"ce": F.cross_entropy(z, y), "kd": kd(z, t)}
        total: Tensor = sum(weights.get(name, 0.0) * value for name, value in terms.items())  # type: ignore[assignment]
        return total

    diagnosis = Loop(loss=loss).diagnosis()
    assert problems(diagnosis) == ([lost] if lost else [])
    if lost:
        assert "has no key" in diagnosis.problems[0].summary


@pytest.mark.parametrize("stop", [None, 12])
@pytest.mark.parametrize("shape", ["line", "cosine"])
@pytest.mark.parametrize(
    ("made_for", "by_batch", "found"), [(72, True, ["schedule"]), (72, False, []), (288, True, []), (24, False, [])]
)
def test_functions_of_steps_for_accumulated_batches(
    made_for: int, by_batch: bool, shape: str, found: list[str], stop: int | None
) -> None:
    """24 epochs of three steps. One that is made for another number may be meant."""

    def factor(step: int) -> float:
        left = max(0.0, (made_for - step) / (made_for - 4))
        return (step + 1) / 5 if step < 4 else left if shape == "line" else 0.5 - 0.5 * math.cos(math.pi * left)

    def kind(optimizer: torch.optim.Optimizer, T_max: int) -> Any:  # noqa: N803 - as torch calls it
        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    assert problems(accumulated_epochs(made_for, by_batch, kind, stop, epochs=24)) == found


def test_columns_picked_in_the_wrong_order_are_no_answers_of_other_images() -> None:
    order = torch.tensor([1, 2, 3, 4, 0])

    def ask(loop: Loop, x: Tensor, number: int) -> Tensor:
        with torch.no_grad():
            out: Tensor = loop.teacher(x)[:, order]
        return out

    assert problems(Loop(ask=ask).diagnosis()) == ["class_order"]
