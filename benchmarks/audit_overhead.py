"""What watching costs a training loop: process CPU time of watched steps and of the same steps alone, in turns.

    python benchmarks/audit_overhead.py [--loops cnn resnet mlp …] [--rounds 8] [--out docs/results/audit-overhead.md]

A round of a loop (cross-entropy and KL, teacher under ``no_grad``) makes as many steps under a new audit as it watches
of a training, here one after another, a few once it has taken itself out, and as many without one; each is timed. A
step is described when the next one begins, and its cost is counted there. The first steps of a training are seen
whole, later ones run networks past the tape, and of these some are described in full: their medians are printed, and
what all 30 watched steps cost together: the sum of the medians of the first, the second, the third step …
Last, what the same step costs under a function mode that does nothing: a tool that follows tensors by one cannot cost
less.
CPU time on a machine with other work varies; medians over all rounds are compared, as load touches all alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, TensorDataset

from stillroom.diagnose.audit import watch as watching
from stillroom.diagnose.audit.steps import in_full
from stillroom.diagnose.audit.watch import WHOLE, Watch

WATCHED = 30


class Idle(TorchFunctionMode):
    """A function mode that does nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, given: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(given, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride > 1 or given != width:
            self.shortcut = nn.Sequential(nn.Conv2d(given, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


def resnet(width: int, blocks: int = 2) -> nn.Module:
    """A ResNet-18 for 32×32 images where the width is 64."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    given = width
    for stage in range(4):
        for block in range(blocks):
            out = width * 2**stage
            layers.append(Block(given, out, 2 if stage and not block else 1))
            given = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(given, 100))


def cnn() -> nn.Module:
    """Two convolutions and a linear layer, as in a first tutorial."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 64, 100)),
    )


def mlp() -> nn.Module:
    """Three layers of 64 units on rows of 3,072 numbers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 100))


# Model, images a batch, whether a DataLoader in the same process gives them.
LOOPS: dict[str, tuple[Callable[[], nn.Module], int, bool]] = {
    "cnn": (cnn, 64, False),
    "cnn-loader": (cnn, 64, True),
    "resnet": (lambda: resnet(16), 128, False),
    "mlp": (mlp, 64, False),
}


def forever(x: Tensor, y: Tensor, loader: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """One batch again and again; through a DataLoader where that is part of the loop."""
    while True:
        if loader:
            yield from DataLoader(TensorDataset(x.repeat(50, 1, 1, 1), y.repeat(50)), len(x))
        else:
            yield x, y


def measure(name: str, rounds: int) -> str:
    """A row of the table."""
    make, batch, loader = LOOPS[name]
    torch.manual_seed(0)
    teacher, student = make().eval(), make()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)
    batches = forever(torch.randn(batch, 3, 32, 32), torch.randint(100, (batch,)), loader)

    def step() -> float:
        start = time.process_time()
        x, y = next(batches)
        with torch.no_grad():
            t = teacher(x)
        z = student(x)
        kd = F.kl_div(F.log_softmax(z / 4, 1), F.softmax(t / 4, 1), reduction="batchmean") * 16
        loss = 0.5 * F.cross_entropy(z, y) + 0.5 * kd
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return time.process_time() - start

    alone: list[float] = []
    after: list[float] = []
    spent: list[list[float]] = [[] for _ in range(WATCHED)]
    closing: list[float] = []
    idle: list[float] = []
    for _ in range(rounds):
        watch = Watch(steps=WATCHED + 1)
        watch.start(deep=True)
        for each in spent:
            each.append(step())
        start = time.process_time()
        with watch._quiet:
            watch._close_window()
        closing.append(time.process_time() - start)
        watch._go_light()
        for phase in watch.phases:
            assert len(phase.steps) == WATCHED, "some steps were not watched"
            watch._complete.add(phase.number)
        after += [step() for _ in range(5)]
        watch.finish()
        alone += [step() for _ in range(WATCHED)]
        with Idle():
            idle += [step() for _ in range(WATCHED)]
    base, free = statistics.median(alone), statistics.median(after)
    medians = [statistics.median(each) for each in spent]
    described = [in_full(number - 1) for number in range(WATCHED)]
    kinds = [
        medians[:WHOLE],
        [each for each, full in zip(medians[WHOLE:], described[WHOLE:], strict=True) if full],
        [each for each, full in zip(medians[WHOLE:], described[WHOLE:], strict=True) if not full],
    ]
    share = (sum(medians) + statistics.median(closing)) / WATCHED / base - 1
    means = map(statistics.mean, kinds)
    cells = [f"{each / base - 1:+.1%} ({(each - base) * 1e3:+.2f} ms)" for each in means]
    shares = " | ".join(f"{each / base - 1:+.1%}" for each in (free, statistics.median(idle)))
    return f"| {name} | {batch} | {base * 1e3:.2f} ms | {' | '.join(cells)} | {share:+.1%} | {shares} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--loops", nargs="+", choices=tuple(LOOPS), default=list(LOOPS))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    # In a longer training, steps after the first ones are watched now and then; here they are watched at once.
    watching.FIRST = WATCHED + 2
    lines = [
        f"| loop | batch | a step alone | the first {WHOLE} | after a full one | others | all {WATCHED} | afterwards "
        "| an empty mode |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in args.loops:
        lines.append(measure(name, args.rounds))
        print(lines[-1], flush=True)
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
