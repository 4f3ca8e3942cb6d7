"""Multi-label: two digits side by side, ten yes/no answers. Soft answers are sigmoids, the loss binary cross-entropy."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def bce_kd(student_logits, teacher_logits, targets, T=2.0, alpha=0.7):
    """targets: [B, 10] of 0 and 1; each class is a question of its own, so everything is averaged"""
    hard = F.binary_cross_entropy_with_logits(student_logits, targets)
    soft = F.binary_cross_entropy_with_logits(student_logits / T, torch.sigmoid(teacher_logits / T))
    return (1 - alpha) * hard + alpha * T**2 * soft


def pairs(x, y, n, g):
    a, b = torch.randint(len(x), (2, n), generator=g)
    t = F.one_hot(y[a], 10).float().maximum(F.one_hot(y[b], 10).float())
    return torch.cat([x[a], x[b]], dim=-1), t


def net(c):
    return nn.Sequential(
        nn.Conv2d(1, c, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(c, 2 * c, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * c, 10),
    )


def exact(model, x, t):
    """Share of pairs for which the two highest scores (or one, of twins) are right."""
    model.eval()
    with torch.no_grad():
        z = model(x)
    k = t.sum(1).long()
    order = z.argsort(1, descending=True)
    hit = t.gather(1, order)
    return 100 * torch.where(k == 1, hit[:, 0], hit[:, 0] * hit[:, 1]).mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    x, y = torch.tensor(d.images).float()[:, None] / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(306))
    g = torch.Generator().manual_seed(args.seed + 1)
    xa, ta = pairs(x[p[:1100]], y[p[:1100]], 2000, g)
    xs, ts = xa[:600], ta[:600]
    xt, tt = pairs(x[p[1100:]], y[p[1100:]], 800, torch.Generator().manual_seed(5))
    teacher = net(16)
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(6):
        for i in torch.randperm(len(xa)).split(50):
            opt.zero_grad()
            F.binary_cross_entropy_with_logits(teacher(xa[i]), ta[i]).backward()
            opt.step()
    print(f"teacher {exact(teacher, xt, tt):.2f}")
    student = net(4)
    opt = torch.optim.Adam(student.parameters(), lr=4e-3)
    for _ in range(15):
        student.train()
        for i in torch.randperm(len(xs)).split(50):
            with torch.no_grad():
                t = teacher(xs[i])
            loss = bce_kd(student(xs[i]), t, ts[i])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"top1 {exact(student, xt, tt):.2f}")


if __name__ == "__main__":
    main()
