import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def digits(seed):
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return x[p][:1200], y[p][:1200], x[p][1200:], y[p][1200:]


def top1(m, x, y):
    m.eval()
    with torch.no_grad():
        return 100 * (m(x).argmax(1) == y).float().mean().item()


def setup():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)


def supervised(model, x, y, steps=200):
    opt = torch.optim.Adam(model.parameters(), lr=4e-3)
    model.train()
    for _ in range(steps):
        b = torch.randint(len(x), (64,))
        opt.zero_grad()
        F.cross_entropy(model(x[b]), y[b]).backward()
        opt.step()
    return model


PAD = -100


def mlp(h):
    return nn.Sequential(nn.Linear(64, h), nn.GELU(), nn.Linear(h, 10))


def draw(x, y, n):
    """n strips of up to nine digits, padded with blanks."""
    rows = torch.randint(len(x), (n, 9))
    valid = torch.arange(9) < torch.randint(3, 10, (n, 1))
    return x[rows] * valid[..., None], torch.where(valid, y[rows], PAD)


def summed_kd(s, t, labels, T=2.0, w=0.8):
    """A sum over valid positions; whoever calls divides."""
    valid = labels != PAD
    s, t, labels = s[valid], t[valid], labels[valid]
    soft = F.kl_div(F.log_softmax(s / T, -1), F.softmax(t / T, -1), reduction="sum")
    return w * T * T * soft + (1 - w) * F.cross_entropy(s, labels, reduction="sum")


def main():
    setup()
    x, y, vx, vy = digits(308)
    teacher = supervised(mlp(128), x, y).eval().requires_grad_(False)
    print(f"teacher {top1(teacher, vx, vy):.2f}")
    student = mlp(16)
    opt = torch.optim.Adam(student.parameters(), lr=5e-3)
    for _ in range(150):
        window = [draw(x[:600], y[:600], 4) for _ in range(4)]
        tokens = sum((labels != PAD).sum() for _, labels in window)
        opt.zero_grad()
        for xb, labels in window:
            (summed_kd(student(xb), teacher(xb), labels) / tokens).backward()
        opt.step()
    print(f"top1 {top1(student, vx, vy):.2f}")


if __name__ == "__main__":
    main()
