"""Momentum teacher: the student learns 80 labels and the averaged teacher's answers on everything."""
import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class MomentumUpdater:
    def __init__(self, tau=0.97):
        self.tau = tau

    @torch.no_grad()
    def update(self, online, momentum):
        for op, mp in zip(online.parameters(), momentum.parameters()):
            mp.mul_(self.tau).add_(op, alpha=1 - self.tau)


class Net(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.f = nn.Sequential(
            nn.Conv2d(1, w, 3, padding=1, bias=False), nn.BatchNorm2d(w), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(w, 2 * w, 3, padding=1, bias=False), nn.BatchNorm2d(2 * w), nn.ReLU(), nn.MaxPool2d(2),
        )
        self.g = nn.Linear(8 * w, 10)

    def forward(self, x):
        return self.g(self.f(x).flatten(1))


class Adapter:
    def __init__(self, student, weight):
        self.student, self.weight = student, weight
        self.teacher = copy.deepcopy(student).requires_grad_(False).eval()
        self.updater = MomentumUpdater()
        self.optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)

    def step(self, x, y, u):
        with torch.no_grad():
            soft = F.softmax(self.teacher(u), 1)
        self.student.train()
        noisy = u + 0.2 * torch.randn_like(u)
        out = self.student(torch.cat([x, noisy]))
        loss = F.cross_entropy(out[: len(x)], y)
        loss = loss + self.weight * F.kl_div(F.log_softmax(out[len(x):], 1), soft, reduction="batchmean")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.updater.update(self.student, self.teacher)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weight", type=float, default=1.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(71))
    x, y = x[p], y[p]
    run = Adapter(Net(8), args.weight)
    for epoch in range(15):
        for u in torch.randperm(1100).split(64):
            l = torch.randint(80, (24,))
            run.step(x[l], y[l], x[u])
    for name, net in ("teacher", run.teacher), ("top1", run.student):
        net.eval()
        with torch.no_grad():
            print(f"{name} {100 * (net(x[1100:]).argmax(1) == y[1100:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
