"""One module, one optimizer, three groups. The teacher's group has learning rate 0 (it keeps its place in the
checkpoint of the optimizer), the stem of the student is a copy of the teacher's and stays frozen."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F


class Stacked(nn.Module):
    def __init__(self, stem, width, classes):
        super().__init__()
        self.stem = stem
        self.body = nn.Sequential(nn.Linear(32, width), nn.ReLU())
        self.top = nn.Linear(width, classes)

    def forward(self, x):
        return self.top(self.body(self.stem(x)))


def stem():
    return nn.Sequential(nn.Linear(12, 32), nn.LayerNorm(32), nn.ReLU())


class Pair(nn.Module):
    def __init__(self, teacher, student):
        super().__init__()
        self.teacher, self.student = teacher, student
        student.stem.load_state_dict(teacher.stem.state_dict())
        student.stem.requires_grad_(False)

    def groups(self, lr):
        return [
            {"params": [*self.student.body.parameters()], "lr": lr},
            {"params": [*self.student.top.parameters()], "lr": 2 * lr},
            {"params": [*self.teacher.parameters()], "lr": 0.0, "weight_decay": 0.0, "momentum": 0.0},
        ]

    def forward(self, x, y, T=3.0, w=0.9):
        s, t = self.student(x), self.teacher(x).detach()
        soft = F.kl_div(F.log_softmax(s / T, 1), F.softmax(t / T, 1), reduction="batchmean")
        return w * T**2 * soft + (1 - w) * F.cross_entropy(s, y)


def draw(n, seed):
    g = torch.Generator().manual_seed(640)
    mu = torch.randn(9, 2, 12, generator=g) * 1.25
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(9, (n,), generator=g)
    return mu[y, torch.randint(2, (n,), generator=g)] + torch.randn(n, 12, generator=g), y


def go(parameters, lr, objective, n, steps, size):
    opt = torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=5e-4)
    for _ in range(steps):
        rows = torch.randint(n, (size,))
        opt.zero_grad()
        objective(rows).backward()
        opt.step()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = draw(2000, a.seed)
    xt, yt = draw(1200, a.seed + 300)
    teacher = Stacked(stem(), 96, 9)
    go(teacher.parameters(), 0.05, lambda r: F.cross_entropy(teacher(x[r]), y[r]), 2000, 350, 64)
    pair = Pair(teacher, Stacked(stem(), 12, 9))
    go(pair.groups(0.03), 0.03, lambda r: pair(x[r], y[r]), 200, 300, 25)
    with torch.no_grad():
        for name, net in (("teacher", pair.teacher), ("top1", pair.student)):
            print(f"{name} {100 * (net(xt).argmax(1) == yt).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
