"""Distillation that can be interrupted and picked up again."""
import argparse
import os
import tempfile

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class ConvNet(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(c, 2 * c, 3, padding=1), nn.BatchNorm2d(2 * c), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        )
        self.head = nn.Linear(8 * c, 10)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


def kd(s, t, temperature=3.0):
    p = F.softmax(t / temperature, dim=-1)
    return -(p * F.log_softmax(s / temperature, dim=-1)).sum(-1).mean() * temperature**2


def save(path, student, optimizer, epoch):
    torch.save({"student": student, "optimizer": optimizer.state_dict(), "epoch": epoch}, path)


def distill(x, y, teacher, path, until, resume, lr=0.002):
    student = ConvNet(3)
    optimizer = torch.optim.Adam(student.parameters(), lr=lr)
    start = 0
    if resume:
        saved = torch.load(path, weights_only=False)
        student.load_state_dict(saved["student"].state_dict())
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["epoch"] + 1
    for epoch in range(start, until):
        student.train()
        for b in torch.randperm(len(x)).split(60):
            with torch.no_grad():
                t = teacher(x[b])
            s = student(x[b])
            loss = 0.9 * kd(s, t) + 0.1 * F.cross_entropy(s, y[b])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        save(path, student, optimizer, epoch)
    return student


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--interrupt-after", type=int, default=2)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    d = load_digits()
    x, y = torch.tensor(d.images).float()[:, None] / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(8))
    x, y = x[p], y[p]

    def top1(m):
        m.eval()
        with torch.no_grad():
            return 100 * (m(x[1200:]).argmax(1) == y[1200:]).float().mean().item()

    teacher = ConvNet(24)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(10):
        for b in torch.randperm(1200).split(60):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.eval().requires_grad_(False)
    print(f"teacher {top1(teacher):.2f}")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "last.pt")
        distill(x[:600], y[:600], teacher, path, a.interrupt_after, resume=False)
        student = distill(x[:600], y[:600], teacher, path, 20, resume=True)
    print(f"top1 {top1(student):.2f}")


if __name__ == "__main__":
    main()
