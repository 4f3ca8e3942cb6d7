"""Accumulation over micro-batches of unequal size: losses are SUMS, divided by the number of images of the whole window."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def cnn(width, drop=0.0):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.GroupNorm(2, width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.GroupNorm(2, 2 * width), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Dropout(drop), nn.Linear(8 * width, 10),
    )


def summed_loss(s, t, y, T=4.0, kd=0.7):
    """not averaged: the caller knows how many images the update is made of"""
    soft = F.kl_div(F.log_softmax(s / T, 1), F.softmax(t / T, 1), reduction="sum")
    return kd * T**2 * soft + (1 - kd) * F.cross_entropy(s, y, reduction="sum")


def windows(rows, window):
    """shuffled windows, each cut into micro-batches of 5 to 20 images"""
    for chunk in rows[torch.randperm(len(rows))].split(window):
        micro, start = [], 0
        while start < len(chunk):
            n = int(torch.randint(5, 21, (1,)))
            micro.append(chunk[start:start + n])
            start += n
        yield len(chunk), micro


class Accumulator:
    def __init__(self, net, optimizer, scheduler, max_norm):
        self.net, self.optimizer, self.scheduler, self.max_norm = net, optimizer, scheduler, max_norm

    def update(self, micro_losses, count):
        self.optimizer.zero_grad()
        for loss in micro_losses:
            (loss / count).backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.max_norm)  # once, on the whole
        self.optimizer.step()
        self.scheduler.step()  # once per update; total_steps counts updates


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--window", type=int, default=48)
    ap.add_argument("--epochs", type=int, default=35)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(71))
    train, test = p[:1100], p[1100:]

    teacher = cnn(16, 0.2)
    opt = torch.optim.Adam(teacher.parameters(), lr=4e-3)
    for _ in range(7):
        for b in train[torch.randperm(1100)].split(44):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.eval().requires_grad_(False)

    few = train[torch.randperm(1100)[:240]]
    student = cnn(4)
    opt = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    total = a.epochs * -(-len(few) // a.window)
    acc = Accumulator(student, opt, torch.optim.lr_scheduler.OneCycleLR(opt, 0.15, total_steps=total), 3.0)
    for _ in range(a.epochs):
        student.train()
        for count, micro in windows(few, a.window):
            acc.update((summed_loss(student(x[b]), teacher(x[b]), y[b]) for b in micro), count)
    student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[test]).argmax(1) == y[test]).float().mean():.2f}")
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean():.2f}")


if __name__ == "__main__":
    main()
