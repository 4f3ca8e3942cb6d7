"""Micro-batches of 4, one update per 8 of them: the memory of a small batch, the gradient of a large one."""
import argparse
from typing import Iterator

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

MICRO, EVERY = 4, 8


def stream(x: Tensor, y: Tensor, rounds: int) -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(rounds):
        shuffled = torch.randperm(len(x))
        for part in shuffled[: len(x) // (MICRO * EVERY) * MICRO * EVERY].split(MICRO):
            yield x[part], y[part]


def distillation(s: Tensor, t: Tensor, temp: float = 4.0) -> Tensor:
    p = torch.softmax(t / temp, dim=-1)
    return temp**2 * torch.sum(p * (p.clamp_min(1e-12).log() - torch.log_softmax(s / temp, dim=-1)), dim=-1).mean()


def patch_net(d: int) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, d, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(16 * d, 10))


def learn(model: nn.Module, guide: nn.Module, data: Iterator[tuple[Tensor, Tensor]], lr: float) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for i, (x, y) in enumerate(data, start=1):
        with torch.no_grad():
            told = guide(x)
        said = model(x)
        loss = 0.5 * F.cross_entropy(said, y) + 0.5 * distillation(said, told)
        optimizer.zero_grad()
        (loss / EVERY).backward()
        if i % EVERY == 0:
            optimizer.step()


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("--seed", type=int, default=0)
    seed = args.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    feats, target = load_digits(return_X_y=True)
    x, y = torch.tensor(feats).float() / 16, torch.tensor(target)
    where = torch.randperm(len(x), generator=torch.Generator().manual_seed(404))
    train, test = where[:960], where[960:]

    guide = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    opt = torch.optim.Adam(guide.parameters(), lr=1e-3)
    for _ in range(20):
        for b in train[torch.randperm(960)].split(48):
            opt.zero_grad()
            F.cross_entropy(guide(x[b]), y[b]).backward()
            opt.step()
    guide.eval()

    model = patch_net(2)
    learn(model, guide, stream(x[train], y[train], rounds=6), lr=0.02)
    with torch.no_grad():
        print(f"guide {100 * (guide(x[test]).argmax(1) == y[test]).float().mean():.2f}")
        print(f"top1 {100 * (model(x[test]).argmax(1) == y[test]).float().mean():.2f}")


if __name__ == "__main__":
    main()
