"""Regression: from the upper half of a digit, how much ink has the lower half? A large net teaches a small one."""
import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn


def regressor(hidden):
    return nn.Sequential(nn.Linear(32, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))


def squared_error(a, b):
    return ((a - b) ** 2).mean()


def distill_loss(pred, teacher_pred, ink, alpha):
    """pred [B, 1], teacher_pred [B], ink [B]"""
    hard = squared_error(pred.squeeze(1), ink)
    soft = squared_error(pred.squeeze(1), teacher_pred)
    return (1 - alpha) * hard + alpha * soft


def train_teacher(x, ink, epochs=60):
    net = regressor(128)
    opt = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, 4e-3, total_steps=epochs * -(-len(x) // 64))
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            loss = squared_error(net(x[rows]).squeeze(1), ink[rows])
            opt.zero_grad()
            loss.backward()
            opt.step()
            sched.step()
    return net.eval()


def train_student(net, teacher, x, ink, epochs, alpha):
    opt = torch.optim.AdamW(net.parameters(), lr=5e-3, weight_decay=1e-3)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(32):
            with torch.no_grad():
                wanted = teacher(x[rows]).squeeze(1)
            loss = distill_loss(net(x[rows]), wanted, ink[rows], alpha)
            opt.zero_grad()
            loss.backward()
            opt.step()


def r_squared(net, x, ink):
    net.eval()
    with torch.no_grad():
        error = ((net(x).squeeze(1) - ink) ** 2).sum()
    return (1 - error / ((ink - ink.mean()) ** 2).sum()).item()


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--alpha", type=float, default=0.8)
    cli.add_argument("--epochs", type=int, default=30)
    o = cli.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(o.seed)
    images = load_digits().images[np.random.RandomState(3).permutation(1797)]
    x = torch.tensor(images[:, :4].reshape(len(images), -1) / 16, dtype=torch.float32)
    ink = torch.tensor(images[:, 4:].sum((1, 2)), dtype=torch.float32)
    ink = (ink - ink[:1200].mean()) / ink[:1200].std()
    teacher = train_teacher(x[:1200], ink[:1200])
    print(f"teacher {100 * r_squared(teacher, x[1200:], ink[1200:]):.2f}")
    student = regressor(10)
    train_student(student, teacher, x[:400], ink[:400], o.epochs, o.alpha)
    # a hundred times R squared, in place of an accuracy
    print(f"top1 {100 * r_squared(student, x[1200:], ink[1200:]):.2f}")


if __name__ == "__main__":
    main()
