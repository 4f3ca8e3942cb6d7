"""Tagging: every sample may carry several of eight tags."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F

TAGS, DIM = 8, 20


def world(n, g):
    w = torch.randn(DIM, TAGS, generator=torch.Generator().manual_seed(3))
    x = torch.randn(n, DIM, generator=g)
    return x, ((x @ w + 0.5 * (x**2) @ w.roll(1, 0)) > 1.5).float()


def tag_kd(student_logits, teacher_logits, tags, weight=0.9):
    hard = F.binary_cross_entropy_with_logits(student_logits, tags)
    soft = F.binary_cross_entropy_with_logits(student_logits, torch.sigmoid(teacher_logits))
    return (1 - weight) * hard + weight * soft


def train(model, x, y, steps, lr, loss_of):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(steps):
        b = torch.randint(len(x), (64,))
        opt.zero_grad()
        loss_of(model(x[b]), x[b], y[b]).backward()
        opt.step()
    return model.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = world(6000, torch.Generator().manual_seed(1))
    flip = torch.rand(600, TAGS) < 0.2  # the small set was tagged in a hurry
    few_x, few_y = x[:600], torch.where(flip, 1 - y[:600], y[:600])
    tx, ty = world(2000, torch.Generator().manual_seed(2))

    def net(h):
        return nn.Sequential(nn.Linear(DIM, h), nn.GELU(), nn.Linear(h, TAGS))

    def right(m):
        with torch.no_grad():
            return 100 * ((m(tx) > 0).float() == ty).float().mean().item()

    teacher = train(net(192), x, y, 700, 4e-3, lambda s, _, t: F.binary_cross_entropy_with_logits(s, t))
    teacher.requires_grad_(False)
    print(f"teacher {right(teacher):.2f}")
    student = train(net(32), few_x, few_y, 500, 4e-3, lambda s, xb, t: tag_kd(s, teacher(xb), t))
    print(f"top1 {right(student):.2f}")


if __name__ == "__main__":
    main()
