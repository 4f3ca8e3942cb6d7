"""Odd or even, one logit each: [0, z] are the logits of two classes, so that the usual divergence can be used."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def two(z):
    """softmax([0, z]) = [1 - sigmoid(z), sigmoid(z)]"""
    return torch.cat([torch.zeros_like(z), z], dim=-1)


def kd_loss(student_z, teacher_z, T=3.0):
    log_q = F.log_softmax(two(student_z) / T, dim=-1)
    log_p = F.log_softmax(two(teacher_z) / T, dim=-1)
    return T**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def net(width):
    return nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))


def train(model, x, odd, epochs, lr, teacher=None, weight=0.0):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(30):
            z = model(x[b])
            loss = (1 - weight) * F.binary_cross_entropy_with_logits(z, odd[b])
            if weight > 0:
                with torch.no_grad():
                    teacher_z = teacher(x[b])
                loss = loss + weight * kd_loss(z, teacher_z)
            opt.zero_grad()
            loss.backward()
            opt.step()
    return model.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--weight", type=float, default=0.8)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, odd = torch.tensor(x).float() / 16, torch.tensor(y % 2).float().unsqueeze(1)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(12))
    rows, test = p[:1100], p[1100:]
    teacher = train(net(96), x[rows], odd[rows], 15, 3e-3).requires_grad_(False)
    few = rows[torch.randperm(len(rows))[:150]]
    student = train(net(8), x[few], odd[few], 50, 1e-2, teacher, a.weight)
    with torch.no_grad():
        for name, m in (("teacher", teacher), ("top1", student)):
            print(f"{name} {100 * ((m(x[test]) > 0).float() == odd[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
