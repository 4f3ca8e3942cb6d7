"""FitNets: stage one fits the lower half to the teacher's hidden layer through a regressor; stage two trains it all."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Thin(nn.Module):
    def __init__(self):
        super().__init__()
        self.lower = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
        self.upper = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10))

    def forward(self, x):
        return self.upper(self.lower(x))


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.lower = nn.Sequential(nn.Linear(64, 96), nn.ReLU())
        self.upper = nn.Sequential(nn.Dropout(0.2), nn.Linear(96, 10))

    def forward(self, x):
        return self.upper(self.lower(x))


def batches(rows, size=40):
    return rows[torch.randperm(len(rows))].split(size)


def hint_stage(teacher, student, x, rows, epochs):
    regressor = nn.Linear(16, 96)
    opt = torch.optim.Adam([*student.lower.parameters(), *regressor.parameters()], lr=3e-3)
    for _ in range(epochs):
        for b in batches(rows):
            with torch.no_grad():
                hint = teacher.lower(x[b])
            loss = 0.5 * (regressor(student.lower(x[b])) - hint).pow(2).sum(1).mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"hint loss {loss.item():.3f}")


def kd_stage(teacher, student, x, y, rows, epochs, T=3.0):
    opt = torch.optim.Adam(student.parameters(), lr=3e-3)
    for epoch in range(epochs):
        lam = 1.0 - 0.7 * epoch / epochs
        for b in batches(rows):
            with torch.no_grad():
                soft = F.softmax(teacher(x[b]) / T, dim=1)
            out = student(x[b])
            loss = F.cross_entropy(out, y[b]) + lam * F.cross_entropy(out / T, soft) * T**2
            opt.zero_grad()
            loss.backward()
            opt.step()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x))
    tr, te = p[:1100], p[1100:]
    teacher = Wide().train()
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(8):
        for b in batches(tr):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.eval().requires_grad_(False)
    student = Thin().train()
    hint_stage(teacher, student, x, tr, 10)
    kd_stage(teacher, student, x, y, tr, 22)
    student.eval()
    with torch.no_grad():
        print(f"top1 {100 * (student(x[te]).argmax(1) == y[te]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
