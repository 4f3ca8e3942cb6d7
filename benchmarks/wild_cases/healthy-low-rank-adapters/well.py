"""The student's backbone was trained on a neighbouring task and stays frozen; low-rank adapters and the head learn."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Adapted(nn.Module):
    def __init__(self, base, rank=8, scale=8.0):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scale = scale / rank

    def forward(self, x):
        return self.base(x) + self.scale * (x @ self.down.t()) @ self.up.t()


class Net(nn.Module):
    def __init__(self, hidden, classes):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, hidden), nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x):
        return self.head(F.relu(self.fc2(F.relu(self.fc1(x)))))


def fit(net, loss_of, rows, epochs, lr):
    opt = torch.optim.Adam([q for q in net.parameters() if q.requires_grad], lr=lr)
    net.train()
    for _ in range(epochs):
        for b in rows[torch.randperm(len(rows))].split(40):
            opt.zero_grad()
            loss_of(b).backward()
            opt.step()
    net.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x))
    tr, te = p[:1100], p[1100:]

    teacher = Net(128, 10)
    fit(teacher, lambda b: F.cross_entropy(teacher(x[b]), y[b]), tr, 7, 3e-3)
    teacher.requires_grad_(False)

    student = Net(40, 2)
    odd = y % 2
    fit(student, lambda b: F.cross_entropy(student(x[b]), odd[b]), tr, 4, 3e-3)
    student.fc1, student.fc2 = Adapted(student.fc1), Adapted(student.fc2)
    student.head = nn.Linear(40, 10)
    free = sum(q.numel() for q in student.parameters() if q.requires_grad)
    print(f"learning {free} of {sum(q.numel() for q in student.parameters())}")

    def kd(b, T=3.0, alpha=0.8):
        s, t = student(x[b]), teacher(x[b])
        log_p, log_q = F.log_softmax(t / T, -1), F.log_softmax(s / T, -1)
        soft = (log_p.exp() * (log_p - log_q)).sum(-1).mean() * T * T
        return alpha * soft + (1 - alpha) * F.cross_entropy(s, y[b])

    fit(student, kd, tr, 22, 5e-3)
    with torch.no_grad():
        print(f"top1 {100 * (student(x[te]).argmax(1) == y[te]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
