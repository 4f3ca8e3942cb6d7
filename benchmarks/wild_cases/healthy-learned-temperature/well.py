"""Curriculum temperature (Li et al., 2023): T is itself trained, against the student, through a gradient reversal.

So the optimiser holds one number more than the student, and T, its square and the KD term's size change as it runs."""
import argparse
import math
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value, strength):
        ctx.strength = strength
        return value.view_as(value)

    @staticmethod
    def backward(ctx, grad):
        return -ctx.strength * grad, None


class Temperature(nn.Module):
    """T in [start, start + reach], from one number."""

    def __init__(self, start=1.0, reach=6.0):
        super().__init__()
        self.raw = nn.Parameter(torch.tensor(-1.0))
        self.start, self.reach = start, reach

    def forward(self, strength):
        return self.start + self.reach * torch.sigmoid(Reverse.apply(self.raw, strength))


def kd_loss(student_logits, teacher_logits, labels, T):
    soft = F.kl_div(F.log_softmax(student_logits / T, 1), F.softmax(teacher_logits / T, 1), reduction="batchmean") * T ** 2
    return 0.4 * F.cross_entropy(student_logits, labels) + 0.6 * soft


def mlp(sizes, drop=0.0):
    layers = []
    for a, b in zip(sizes, sizes[1:]):
        layers += [nn.Linear(a, b), nn.ReLU(), nn.Dropout(drop)]
    return nn.Sequential(*layers[:-2])


def measure(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(8))
    tr, te = p[:1200], p[1200:]
    teacher = mlp([64, 220, 220, 10], 0.2)
    opt = torch.optim.Adam(teacher.parameters(), 1e-3)
    for _ in range(22):
        teacher.train()
        for b in tr[torch.randperm(len(tr))].split(40):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    print(f"teacher {measure(teacher, x[te], y[te]):.2f}")
    teacher.eval().requires_grad_(False)

    student, temperature, epochs = mlp([64, 28, 28, 10]), Temperature(), 40
    opt = torch.optim.SGD([{"params": student.parameters()}, {"params": temperature.parameters(), "weight_decay": 0.0}],
                          lr=0.05, momentum=0.9, weight_decay=1e-4)
    for epoch in range(epochs):
        strength = 0.5 * (1 - math.cos(math.pi * min(epoch / 10, 1)))  # 0 to 1 within ten epochs
        student.train()
        for b in tr[torch.randperm(len(tr))].split(48):
            with torch.no_grad():
                told = teacher(x[b])
            loss = kd_loss(student(x[b]), told, y[b], temperature(strength))
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 5.0)
            opt.step()
    print(f"temperature {temperature(0.0).item():.2f}")
    print(f"top1 {measure(student, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
