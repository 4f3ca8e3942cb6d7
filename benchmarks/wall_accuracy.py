"""Why the plain script of ``wall.py`` learned more: its training with one difference to ours at a time, paired by seed.

    STILLROOM_DATA=… python benchmarks/wall_accuracy.py --seeds 4 --rows runs/wall-accuracy.jsonl    # 10 minutes
    python benchmarks/wall_accuracy.py --labels --seeds 3 --rows runs/wall-accuracy.jsonl            # without a teacher

ResNet-8 of width 8, 1,000 images × 8 epochs, 4,000 test images, ResNet-20 as the teacher. For one seed variants have
the same initial weights and order; random crops are the same for all seeds. It goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor
from wall_plain import ALPHA, BATCH, MEAN, STD, TAU, Cifar

from stillroom.losses.kl import kl
from stillroom.models.zoo import ResNet
from stillroom.train.config import ScheduleConfig
from stillroom.train.optimisation import lr_factor

PLAIN = "the plain script as it was"
# Padding (mean: after the normalisation), views (0: new ones in each epoch), whether the momentum moves, our schedule
# and storage.
VARIANTS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "black padding": {"pad": "black"},
    "momentum .9 all along": {"moves": False},
    "4 views": {"views": 4},
    "pad_mode: reflect": {"pad": "reflect"},
    "all of ours": {"pad": "black", "moves": False, "views": 4, "ours": True},
}


class Task:
    """Images, views and the teacher's answers to them."""

    def __init__(self, folder: Path, images: int, epochs: int, tests: int) -> None:
        self.epochs, self.train = epochs, Cifar(folder / "cifar10" / "train.parquet", images, augment=False)
        test = Cifar(folder / "cifar10" / "test.parquet", None, augment=False)
        self.x, self.y = _pixels(self.train, images), torch.tensor(self.train.labels)
        self.test, self.answers = _normalised(_pixels(test, tests)), torch.tensor(test.labels[:tests])
        self.teacher = ResNet(20)
        state = torch.load(folder / "weights" / "resnet20-cifar10.th", map_location="cpu", weights_only=True)
        values = [value for name, value in state["state_dict"].items() if not name.endswith("num_batches_tracked")]
        names = [name for name in self.teacher.state_dict() if not name.endswith("num_batches_tracked")]
        self.teacher.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
        self.teacher.eval()

    @functools.cache  # noqa: B019 - one task a process
    @torch.no_grad()
    def view(self, number: int, pad: str) -> tuple[Tensor, Tensor]:
        """The images of a view, and the teacher's logits for them."""
        drawn, count = torch.Generator().manual_seed(777_000 + number), len(self.x)
        top, left = (torch.randint(0, 9, (count,), generator=drawn) for _ in range(2))
        flip = torch.rand(count, generator=drawn) < 0.5
        mode = "reflect" if pad == "reflect" else "constant"
        padded = F.pad(_normalised(self.x), (4,) * 4, mode) if pad != "black" else _normalised(F.pad(self.x, (4,) * 4))
        side = torch.arange(32)
        rows, columns = (top[:, None] + side)[:, :, None], (left[:, None] + side)[:, None, :]
        x = padded[torch.arange(count)[:, None, None], :, rows, columns].permute(0, 3, 1, 2)
        x = torch.where(flip[:, None, None, None], x.flip(3), x)
        return x, torch.cat([self.teacher(part) for part in x.split(250)])

    def top1(
        self, seed: int, labels: bool, pad: str = "mean", moves: bool = True, views: int = 0, ours: bool = False
    ) -> float:
        """Train a student and evaluate it: per cent right."""
        torch.manual_seed(seed)
        net, order = ResNet(8, width=8), torch.Generator().manual_seed(1000 + seed)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
        total, step = len(self.x) // BATCH * self.epochs, 0
        theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=total, cycle_momentum=moves)
        for epoch in range(self.epochs):
            x, answers = self.view(epoch % views if views else epoch, pad)
            answers = answers.half().float() if ours else answers
            for rows in torch.randperm(len(x), generator=order)[: len(x) // BATCH * BATCH].split(BATCH):
                if ours:
                    optimizer.param_groups[0]["lr"] = 0.1 * lr_factor(ScheduleConfig(), step, total)
                logits = net(x[rows])
                loss = F.cross_entropy(logits, self.y[rows])
                if not labels:
                    loss = (1 - ALPHA) * loss + ALPHA * kl(logits, answers[rows], temperature=TAU)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                theirs.step()
                step += 1
        net.eval()
        with torch.no_grad():
            guesses = torch.cat([net(part).argmax(1) for part in self.test.split(250)])
        return 100 * float((guesses == self.answers).double().mean())


def _pixels(data: Cifar, count: int) -> Tensor:
    return torch.stack([torch.from_numpy(image.copy()).permute(2, 0, 1) for image in data.images[:count]])


def _normalised(x: Tensor) -> Tensor:
    return (x.float() / 255 - MEAN) / STD


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Each variant against the plain script, paired by seed, with Student's interval."""
    yield "| losses | variant | seeds | top-1 | points, paired | 95% |\n|---|---|---:|---:|---:|---|"
    found = {(row["labels"], row["variant"], row["seed"]): row["top1"] for row in rows}
    for labels in sorted({row["labels"] for row in rows}):
        for name in VARIANTS:
            seeds = [s for kind, variant, s in found if (kind, variant) == (labels, name)]
            seeds = [seed for seed in seeds if (labels, PLAIN, seed) in found]
            more = [found[labels, name, seed] - found[labels, PLAIN, seed] for seed in seeds]
            if not seeds:
                continue
            mean, interval = statistics.mean(found[labels, name, seed] for seed in seeds), ""
            if len(more) > 1 and name != PLAIN:
                half = stats.t.ppf(0.975, len(more) - 1) * statistics.stdev(more) / len(more) ** 0.5
                interval = f"{statistics.mean(more) - half:+.2f} … {statistics.mean(more) + half:+.2f}"
            kind = "labels alone" if labels else "distilled"
            yield f"| {kind} | {name} | {len(seeds)} | {mean:.2f} | {statistics.mean(more):+.2f} | {interval} |"


def main() -> None:
    """Run what has no row yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", action="store_true", help="labels alone, without the teacher's answers")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--test-images", type=int, default=4000)
    parser.add_argument("--rows", type=Path, default=Path("runs/wall-accuracy.jsonl"))
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.rows.read_text().splitlines()] if options.rows.exists() else []
    done = {(row["labels"], row["variant"], row["seed"]) for row in rows}
    task = Task(Path(os.environ["STILLROOM_DATA"]), options.images, options.epochs, options.test_images)
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seeds):
        for name, changes in VARIANTS.items():
            if (options.labels, name, seed) in done:
                continue
            top1 = task.top1(seed, options.labels, **changes)
            rows.append({"labels": options.labels, "variant": name, "seed": seed, "top1": top1})
            with options.rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
