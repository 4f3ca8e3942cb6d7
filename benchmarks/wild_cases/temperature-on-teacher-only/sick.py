"""Soft-target cross entropy written out, linear warm-up, an averaged student for the test."""
import argparse
import copy
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def soft_cross_entropy(student_logits, teacher_logits, T):
    """Hinton's soft-target loss at temperature T, times T^2."""
    target = F.softmax(teacher_logits / T, dim=1)
    logprob = F.log_softmax(student_logits, dim=1)
    return -(target * logprob).sum(dim=1).mean() * T**2


class Average:
    """Exponential moving average of a model's weights."""

    def __init__(self, model, decay):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, source):
        for a, b in zip(self.model.parameters(), source.parameters()):
            a.lerp_(b, 1 - self.decay)


def warmup_cosine(step, warm, total):
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def big():
    return nn.Sequential(nn.Linear(64, 200), nn.GELU(), nn.Linear(200, 100), nn.GELU(), nn.Linear(100, 10))


def little():
    return nn.Sequential(nn.Linear(64, 16), nn.GELU(), nn.Linear(16, 10))


def batches(n, size):
    return torch.randperm(n).split(size)


def train_big(model, x, y, epochs=15):
    model.train()
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for b in batches(len(x), 64):
            opt.zero_grad(set_to_none=True)
            F.cross_entropy(model(x[b]), y[b]).backward()
            opt.step()
    return model.eval()


def train_little(model, big_model, x, y, T, alpha, epochs=30, size=32):
    opt = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-3)
    total = epochs * math.ceil(len(x) / size)
    sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda s: warmup_cosine(s, total // 10, total))
    average = Average(model, 0.98)
    model.train()
    for _ in range(epochs):
        for b in batches(len(x), size):
            with torch.no_grad():
                wanted = big_model(x[b])
            got = model(x[b])
            loss = alpha * soft_cross_entropy(got, wanted, T) + (1 - alpha) * F.cross_entropy(got, y[b])
            opt.zero_grad(set_to_none=True)
            loss.backward()
            opt.step()
            sched.step()
            average.update(model)
    return average.model


def top1(model, x, y):
    with torch.no_grad():
        return 100 * (model(x).argmax(1) == y).double().mean().item()


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--temperature", type=float, default=4.0)
    p.add_argument("--alpha", type=float, default=0.8)
    a = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    bunch = load_digits()
    x = torch.tensor(bunch.data, dtype=torch.float32) / 16 - 0.3
    y = torch.tensor(bunch.target)
    cut = torch.randperm(len(x), generator=torch.Generator().manual_seed(9))
    train, test = cut[:1200], cut[1200:]
    teacher = train_big(big(), x[train], y[train])
    print(f"teacher {top1(teacher, x[test], y[test]):.2f}")
    student = train_little(little(), teacher, x[train[:500]], y[train[:500]], a.temperature, a.alpha)
    print(f"top1 {top1(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
