"""KD with early stopping of the teacher on a validation set."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class EarlyStopping:
    def __init__(self, patience=3):
        self.patience, self.bad, self.best = patience, 0, float("inf")

    def should_stop(self, value):
        if value >= self.best:
            self.bad += 1
        else:
            self.best, self.bad = value, 0
        return self.bad >= self.patience


def make_mlp(h):
    return nn.Sequential(nn.Linear(64, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, 10))


def train_teacher(x, y, xv, yv, max_epochs=40):
    net = make_mlp(64)
    opt = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    stopper = EarlyStopping()
    for epoch in range(max_epochs):
        net.train()
        for i in torch.randperm(len(x)).split(100):
            opt.zero_grad()
            F.cross_entropy(net(x[i]), y[i]).backward()
            opt.step()
        net.eval()
        with torch.no_grad():
            val = F.cross_entropy(net(xv), yv).item()
        if stopper.should_stop(val):
            print(f"stopped after {epoch + 1} epochs")
            break
    return net


def kd(student_logits, teacher_logits, labels, T=1.5, w=0.8):
    p = (teacher_logits / T).softmax(-1)
    log_q = (student_logits / T).log_softmax(-1)
    return w * T**2 * (p * (p.log() - log_q)).sum(-1).mean() + (1 - w) * F.cross_entropy(student_logits, labels)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(70))
    tr, va, te = p[:900], p[900:1100], p[1100:]
    teacher = train_teacher(x[tr], y[tr], x[va], y[va]).eval().requires_grad_(False)
    student = make_mlp(16)
    opt = torch.optim.Adam(student.parameters(), lr=3e-3)
    for epoch in range(25):
        student.train()
        for i in tr[torch.randperm(900)].split(60):
            loss = kd(student(x[i]), teacher(x[i]), y[i])
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[te]).argmax(1) == y[te]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[te]).argmax(1) == y[te]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
