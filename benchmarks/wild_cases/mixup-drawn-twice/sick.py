"""Student and teacher are both shown blended images."""
import argparse

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Blend:
    """Convex blend of a batch with a shuffled copy of itself."""

    def __init__(self, beta=0.8):
        self.beta = beta

    def __call__(self, x):
        lam = float(np.random.beta(self.beta, self.beta))
        other = torch.randperm(x.size(0))
        return lam * x + (1 - lam) * x[other]


def mlp(width, depth=2):
    layers, d = [], 64
    for _ in range(depth):
        layers += [nn.Linear(d, width), nn.GELU()]
        d = width
    return nn.Sequential(*layers, nn.Linear(d, 10))


class Distiller:
    def __init__(self, teacher, student, lr=4e-3, temperature=2.0):
        self.teacher = teacher.eval().requires_grad_(False)
        self.student = student
        self.t = temperature
        self.blend = Blend()
        self.opt = torch.optim.Adam(student.parameters(), lr=lr)

    def objective(self, s, t):
        s = F.log_softmax(s / self.t, dim=1)
        t = F.log_softmax(t / self.t, dim=1)
        return F.kl_div(s, t, log_target=True, reduction="batchmean") * self.t**2

    def step(self, x):
        with torch.no_grad():
            target = self.teacher(self.blend(x))
        loss = self.objective(self.student(self.blend(x)), target)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        return loss.item()

    def fit(self, x, epochs, batch=64):
        self.student.train()
        for _ in range(epochs):
            for b in torch.randperm(len(x)).split(batch):
                self.step(x[b])


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    np.random.seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(5))
    tr, te = p[:1200], p[1200:]

    def top1(m):
        m.eval()
        with torch.no_grad():
            return 100 * (m(x[te]).argmax(1) == y[te]).float().mean().item()

    teacher = mlp(256)
    opt = torch.optim.AdamW(teacher.parameters(), lr=2e-3)
    for _ in range(25):
        for b in torch.randperm(1200).split(64):
            loss = F.cross_entropy(teacher(x[tr[b]]), y[tr[b]])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"teacher {top1(teacher):.2f}")
    student = mlp(12)
    Distiller(teacher, student).fit(x[tr], epochs=20)
    print(f"top1 {top1(student):.2f}")


if __name__ == "__main__":
    main()
