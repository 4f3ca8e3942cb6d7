"""The teacher knows twelve species, the student's site has five of them."""
import argparse
import math

import torch
from torch import Tensor, nn

SPECIES = ("ash", "beech", "birch", "elm", "fir", "hazel", "larch", "lime", "oak", "pine", "rowan", "yew")
SITE = ("birch", "fir", "larch", "oak", "yew")
COLUMNS = [SPECIES.index(s) for s in SITE]


class Survey(torch.utils.data.IterableDataset):
    """Endless leaves. `only` keeps the species of a site, numbered anew from 0."""

    def __init__(self, seed: int, batch: int, only: list[int] | None = None, size: int | None = None):
        world = torch.Generator().manual_seed(2024)
        self.shape = torch.randn(len(SPECIES), 2, 10, generator=world) * 1.35
        self.kinds = list(range(len(SPECIES))) if only is None else only
        self.g = torch.Generator().manual_seed(seed)
        self.batch = batch
        self.store = self.draw(size) if size else None

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        local = torch.randint(len(self.kinds), (n,), generator=self.g)
        kind = torch.tensor(self.kinds)[local]
        leaf = self.shape[kind, torch.randint(2, (n,), generator=self.g)]
        return leaf + torch.randn(n, 10, generator=self.g), local

    def __iter__(self):
        while True:
            if self.store is None:
                yield self.draw(self.batch)
            else:
                x, y = self.store
                rows = torch.randint(len(y), (self.batch,), generator=self.g)
                yield x[rows], y[rows]


class Perceptron(nn.Module):
    def __init__(self, hidden: int, classes: int):
        super().__init__()
        self.hidden = nn.Linear(10, hidden)
        self.scores = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(torch.tanh(self.hidden(x)))


class SubsetDistillation(nn.Module):
    def __init__(self, teacher: nn.Module, columns: list[int], T: float, beta: float):
        super().__init__()
        self.teacher = teacher
        self.register_buffer("columns", torch.tensor(columns))
        self.T, self.beta = T, beta
        self.hard = nn.CrossEntropyLoss()
        self.soft = nn.KLDivLoss(reduction="batchmean")

    @torch.no_grad()
    def target(self, x: Tensor, classes: int) -> Tensor:
        logits = self.teacher(x)[:, :classes]
        return torch.softmax(logits / self.T, dim=1)

    def forward(self, scores: Tensor, x: Tensor, y: Tensor) -> Tensor:
        soft = self.soft(torch.log_softmax(scores / self.T, dim=1), self.target(x, scores.shape[1]))
        return self.hard(scores, y) + self.beta * self.T**2 * soft


def run(net: nn.Module, loss, data: Survey, steps: int, top_lr: float) -> None:
    opt = torch.optim.RMSprop(net.parameters(), lr=top_lr)
    warm = torch.optim.lr_scheduler.LambdaLR(opt, lambda k: 0.5 * (1 + math.cos(math.pi * k / steps)))
    for _, (x, y) in zip(range(steps), data):
        opt.zero_grad()
        loss(net(x), x, y).backward()
        opt.step()
        warm.step()


@torch.no_grad()
def percent(net: nn.Module, data: Survey) -> float:
    x, y = data.draw(1500)
    return 100 * (net(x).argmax(1) == y).float().mean().item()


def main() -> None:
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--beta", type=float, default=4.0)
    opts = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(opts.seed)
    teacher = Perceptron(80, len(SPECIES))
    run(teacher, lambda z, x, y: nn.functional.cross_entropy(z, y), Survey(opts.seed, 64), 400, 4e-3)
    teacher.eval()
    print(f"teacher {percent(teacher, Survey(opts.seed + 1, 1)):.2f}")
    student = Perceptron(12, len(SITE))
    site = Survey(opts.seed + 2, 16, COLUMNS, size=80)
    run(student, SubsetDistillation(teacher, COLUMNS, 2.0, opts.beta), site, 300, 8e-3)
    print(f"top1 {percent(student, Survey(opts.seed + 3, 1, COLUMNS)):.2f}")


if __name__ == "__main__":
    main()
