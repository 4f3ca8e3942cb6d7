"""Regression: the student follows the teacher only where it is worse than the teacher by a margin (Chen et al., 2017).
Targets are standardised; no softmax, no temperature anywhere."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F


def world(count, seed):
    """Three smooth functions of eight inputs, measured with noise."""
    fixed = torch.Generator().manual_seed(7)
    a, b = torch.randn(8, 12, generator=fixed), torch.randn(12, 3, generator=fixed)
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 8, generator=g) * 2 - 1
    clean = torch.tanh(x @ a) @ b / 3
    return x, clean + 0.2 * torch.randn(count, 3, generator=g), clean


def net(width):
    return nn.Sequential(nn.Linear(8, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3))


class BoundedLoss(nn.Module):
    def __init__(self, margin=0.01, nu=0.5):
        super().__init__()
        self.margin, self.nu = margin, nu

    def forward(self, out, target, teacher_out):
        base = F.smooth_l1_loss(out, target)
        mine = (out - target).pow(2).sum(1)
        theirs = (teacher_out - target).pow(2).sum(1)
        worse = mine + self.margin > theirs  # rows on which the teacher has something to teach
        bounded = torch.where(worse, mine, torch.zeros_like(mine)).mean()
        imitate = F.mse_loss(out, teacher_out)
        return base + self.nu * bounded + imitate


def fit(model, x, y, epochs, lr, loss_fn):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, epochs)
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(x)).split(64):
            loss = loss_fn(model(x[rows]), x[rows], y[rows])
            opt.zero_grad()
            loss.backward()
            opt.step()
        sched.step()
    return model.eval()


@torch.no_grad()
def explained(model, x, clean):
    return 100 * (1 - (model(x) - clean).pow(2).sum() / (clean - clean.mean(0)).pow(2).sum()).item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y, _ = world(2000, 1)
    mean, std = y.mean(0), y.std(0)
    y = (y - mean) / std
    teacher = fit(net(96), x, y, 15, 4e-3, lambda out, _, t: F.mse_loss(out, t)).requires_grad_(False)
    fx, fy, _ = world(250, 100 + seed)
    fy = (fy - mean) / std
    criterion = BoundedLoss()
    student = fit(net(10), fx, fy, 100, 8e-3, lambda out, i, t: criterion(out, t, teacher(i)))
    tx, _, clean = world(1000, 2)
    clean = (clean - mean) / std
    print(f"teacher {explained(teacher, tx, clean):.2f}")
    print(f"r2 {explained(student, tx, clean):.2f}")


if __name__ == "__main__":
    main()
