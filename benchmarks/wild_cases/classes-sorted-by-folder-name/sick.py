#!/usr/bin/env python
"""The teacher was trained on a folder per class, so its outputs are in the order of the folders' names.

Its checkpoint says which: {"state_dict": ..., "classes": ["eight", "five", ...]}.
"""
import argparse
import io
import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def get_model(kind):
    width = {"large": 20, "small": 3}[kind]
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.Hardswish(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.Hardswish(),
        nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.Hardswish(),
        nn.Flatten(), nn.Linear(8 * width, 10),
    )


def run_epoch(model, batches, step):
    model.train()
    for x, y in batches:
        step(x, y)


def shuffled(x, y, size):
    for b in torch.randperm(len(x)).split(size):
        yield x[b], y[b]


def accuracy(model, x, y):
    model.eval()
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item() * 100


def train_checkpoint(x, y, epochs=6):
    """Stands for the job that trained the teacher on folders."""
    classes = sorted(NAMES)
    class_to_idx = {c: i for i, c in enumerate(classes)}
    y = torch.tensor([class_to_idx[NAMES[i]] for i in y.tolist()])
    model = get_model("large")
    opt = torch.optim.Adam(model.parameters(), lr=2e-3)

    def step(xb, yb):
        opt.zero_grad()
        F.cross_entropy(model(xb), yb).backward()
        opt.step()

    for _ in range(epochs):
        run_epoch(model, shuffled(x, y, 64), step)
    print(f"teacher on its own folders {accuracy(model, x, y):.2f}", file=sys.stderr)
    buffer = io.BytesIO()
    torch.save({"state_dict": model.state_dict(), "classes": classes}, buffer)
    buffer.seek(0)
    return buffer


def load_teacher(file):
    ckpt = torch.load(file)
    model = get_model("large")
    model.load_state_dict(ckpt["state_dict"])
    model.eval()
    for p in model.parameters():
        p.requires_grad_(False)
    order = torch.tensor([NAMES.index(c) for c in ckpt["classes"]])

    @torch.no_grad()
    def ask(x):
        return model(x)[:, order]

    return ask


def distill(ask, student, x, y, epochs, tau, weight):
    opt = torch.optim.SGD(student.parameters(), lr=0.04, momentum=0.9)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, epochs)

    def step(xb, yb):
        logits = student(xb)
        kd = F.kl_div((logits / tau).log_softmax(1), (ask(xb) / tau).softmax(1), reduction="batchmean")
        loss = weight * tau**2 * kd + (1 - weight) * F.cross_entropy(logits, yb)
        opt.zero_grad()
        loss.backward()
        opt.step()

    for _ in range(epochs):
        run_epoch(student, shuffled(x, y, 32), step)
        sched.step()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--weight", type=float, default=0.5)
    p.add_argument("--tau", type=float, default=3.0)
    p.add_argument("--epochs", type=int, default=20)
    a = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    d = load_digits()
    x, y = torch.tensor(d.images[:, None] / 16, dtype=torch.float32), torch.tensor(d.target)
    perm = torch.randperm(len(x), generator=torch.Generator().manual_seed(19))
    tr, te = perm[:1200], perm[1200:]
    few = tr[torch.randperm(1200, generator=torch.Generator().manual_seed(a.seed))[:320]]
    ask = load_teacher(train_checkpoint(x[tr], y[tr]))
    student = get_model("small")
    distill(ask, student, x[few], y[few], a.epochs, a.tau, a.weight)
    print(f"top1 {accuracy(student, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
