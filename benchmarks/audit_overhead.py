"""What watching costs a training loop: process CPU time of watched steps beside the same steps alone, in turns.

    python benchmarks/audit_overhead.py [--model resnet18|tiny] [--rounds 8] [--batch 64]

Each round times a few steps of one and the same loop (cross-entropy and KL, teacher under ``no_grad``) three times:
alone, while it is watched, and with an audit that has seen enough and taken itself out. The median over rounds of each
ratio is printed, so that load on the machine touches both alike.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillroom.diagnose.audit.watch import Watch


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


def tiny() -> nn.Module:
    """Three layers of 64 units on 8×8 images."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", choices=("resnet18", "tiny"), default="resnet18")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, help="steps of a turn; default 2, or 30 for the tiny model")
    args = parser.parse_args()
    torch.manual_seed(0)
    small = args.model == "tiny"
    teacher, student = (tiny(), tiny()) if small else (resnet(64), resnet(64))
    teacher.eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)
    x = torch.randn(args.batch, 64) if small else torch.randn(args.batch, 3, 32, 32)
    y = torch.randint(10 if small else 100, (args.batch,))
    steps = args.steps or (30 if small else 2)

    def train(count: int) -> None:
        for _ in range(count):
            with torch.no_grad():
                t = teacher(x)
            z = student(x)
            kd = F.kl_div(F.log_softmax(z / 4, 1), F.softmax(t / 4, 1), reduction="batchmean") * 16
            loss = 0.5 * F.cross_entropy(z, y) + 0.5 * kd
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def seconds(count: int) -> float:
        start = time.process_time()
        train(count)
        return time.process_time() - start

    train(2)
    watched, after = [], []
    for number in range(args.rounds):
        turns = {}
        for turn in ("alone", "watched", "after") if number % 2 else ("watched", "after", "alone"):
            if turn == "alone":
                turns[turn] = seconds(steps)
                continue
            if turn == "watched":
                watch = Watch(steps=10**6)
                watch.start(deep=True)
                # The first steps of a phase are all watched; the diagnosis is made when the loop has ended.
                turns[turn] = seconds(min(steps, 11))
                turns[turn] *= steps / min(steps, 11)
                watch._go_light()
                for phase in watch.phases:
                    watch._complete.add(phase.number)
                continue
            turns[turn] = seconds(steps)
            watch.finish()
        watched.append(turns["watched"] / turns["alone"] - 1)
        after.append(turns["after"] / turns["alone"] - 1)
    for name, found in (("watched steps", watched), ("steps after", after)):
        low, *_, high = sorted(found)
        print(f"{args.model}, {name}: {statistics.median(found):+.1%} ({low:+.1%} to {high:+.1%}, {len(found)} rounds)")


if __name__ == "__main__":
    main()
