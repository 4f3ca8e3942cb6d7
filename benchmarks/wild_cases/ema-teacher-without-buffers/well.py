"""Mean-teacher consistency on digits: 100 labels, the rest unlabelled."""
import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def build():
    return nn.Sequential(
        nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(),
        nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10),
    )


@torch.no_grad()
def ema_update(ema, model, decay):
    for e, p in zip(ema.parameters(), model.parameters()):
        e.mul_(decay).add_(p, alpha=1 - decay)
    for e, p in zip(ema.buffers(), model.buffers()):
        e.copy_(p)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--decay", type=float, default=0.97)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float(), torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(12))
    x, y = x[p], y[p]
    student = build()
    ema = copy.deepcopy(student).requires_grad_(False).eval()
    opt = torch.optim.Adam(student.parameters(), lr=3e-3)
    noise = lambda v: v + 2.0 * torch.randn_like(v)
    for step in range(300):
        student.train()
        u, l = torch.randint(1200, (64,)), torch.randint(100, (32,))
        target = F.softmax(ema(noise(x[u])), dim=1)
        loss = F.cross_entropy(student(noise(x[l])), y[l])
        ramp = min(1.0, step / 60)
        loss = loss + 2.0 * ramp * F.kl_div(F.log_softmax(student(noise(x[u])), 1), target, reduction="batchmean")
        opt.zero_grad()
        loss.backward()
        opt.step()
        ema_update(ema, student, min(a.decay, (step + 1) / (step + 10)))
    with torch.no_grad():
        print(f"top1 {100 * (ema(x[1200:]).argmax(1) == y[1200:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
