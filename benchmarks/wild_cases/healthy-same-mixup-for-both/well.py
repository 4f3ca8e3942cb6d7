"""Mixed images (mixup or a pasted box), the same for teacher and student; only mixed images are ever seen."""
import argparse

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def mix(x, y, rng):
    """Returns images, both labels and the share of the first."""
    perm = torch.as_tensor(rng.permutation(len(x)))
    lam = float(rng.beta(1.0, 1.0))
    if rng.random() < 0.5:
        return lam * x + (1 - lam) * x[perm], y, y[perm], lam
    side = int(round(8 * (1 - lam) ** 0.5))
    top, left = rng.integers(0, 9 - side, size=2)
    out = x.clone()
    out[:, :, top : top + side, left : left + side] = x[perm][:, :, top : top + side, left : left + side]
    return out, y, y[perm], 1 - side * side / 64


def conv(c):
    return nn.Sequential(
        nn.Conv2d(1, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(c, 2 * c, 3), nn.BatchNorm2d(2 * c), nn.ReLU(), nn.Flatten(), nn.Linear(8 * c, 10),
    )


def function_matching(student, teacher, x, ya, yb, lam, T=2.0):
    with torch.no_grad():
        t = teacher(x)
    s = student(x)
    soft = F.kl_div(F.log_softmax(s / T, 1), F.softmax(t / T, 1), reduction="batchmean") * T**2
    hard = lam * F.cross_entropy(s, ya) + (1 - lam) * F.cross_entropy(s, yb)
    return 0.9 * soft + 0.1 * hard


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    d = load_digits()
    x, y = torch.tensor(d.images).float()[:, None] / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(312))
    x, y = x[p], y[p]
    teacher = conv(16)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    teacher.train()
    for _ in range(10):
        for i in torch.randperm(1000).split(50):
            xm, ya, yb, lam = mix(x[i], y[i], rng)
            z = teacher(xm)
            opt.zero_grad()
            (lam * F.cross_entropy(z, ya) + (1 - lam) * F.cross_entropy(z, yb)).backward()
            opt.step()
    teacher.eval()
    student = conv(3)
    opt = torch.optim.Adam(student.parameters(), lr=6e-3)
    for _ in range(25):
        student.train()
        for i in torch.randperm(400).split(40):
            loss = function_matching(student, teacher, *mix(x[i], y[i], rng))
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[1000:]).argmax(1) == y[1000:]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[1000:]).argmax(1) == y[1000:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
