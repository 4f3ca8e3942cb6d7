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


def shrink(x):
    return F.avg_pool2d(x.view(-1, 1, 8, 8), 2).flatten(1)


def main():
    """The student is for a 4x4 sensor; the teacher was made for 8x8."""
    setup()
    x, y, vx, vy = digits(306)
    teacher = supervised(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)), x, y).eval()
    print(f"teacher {top1(teacher, vx, vy):.2f}")
    student = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 10))
    opt = torch.optim.Adam(student.parameters(), lr=5e-3)
    T = 2.0
    for _ in range(400):
        b = torch.randint(1200, (64,))
        with torch.no_grad():
            p = F.softmax(teacher(x[b]) / T, 1)
        loss = T**2 * F.kl_div(F.log_softmax(student(shrink(x[b])) / T, 1), p, reduction="batchmean")
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(f"top1 {top1(student, shrink(vx), vy):.2f}")


if __name__ == "__main__":
    main()
