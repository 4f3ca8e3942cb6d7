# distill.py - teach a small MLP with a wide one
import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F


def mlp(*sizes):
    layers = []
    for a, b in zip(sizes[:-1], sizes[1:]):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def soft_loss(logits_t, logits_s, tau):
    """KL(teacher || student) at temperature tau"""
    p_t = F.softmax(logits_t / tau, dim=-1)
    log_p_t = F.log_softmax(logits_t / tau, dim=-1)
    log_p_s = F.log_softmax(logits_s / tau, dim=-1)
    return (p_t * (log_p_t - log_p_s)).sum(dim=-1).mean() * tau ** 2


def batches(n, size, rng):
    order = rng.permutation(n)
    for i in range(0, n, size):
        yield torch.from_numpy(order[i:i + size])


def train_plain(net, x, y, rng, epochs=20, lr=2e-3):
    opt = torch.optim.Adam(net.parameters(), lr=lr)
    net.train()
    for _ in range(epochs):
        for b in batches(len(x), 40, rng):
            loss = F.cross_entropy(net(x[b]), y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()


def train_distilled(student, teacher, x, y, rng, epochs=30, lr=2e-3, tau=3.0, alpha=0.9):
    opt = torch.optim.Adam(student.parameters(), lr=lr)
    student.train()
    teacher.eval()
    for _ in range(epochs):
        for b in batches(len(x), 40, rng):
            logits = student(x[b])
            with torch.no_grad():
                target = teacher(x[b])
            kd = soft_loss(target, logits, tau)
            ce = F.cross_entropy(logits, y[b])
            loss = alpha * kd + (1 - alpha) * ce
            opt.zero_grad()
            loss.backward()
            opt.step()


def accuracy(net, x, y):
    net.eval()
    with torch.no_grad():
        return (net(x).argmax(-1) == y).double().mean().item() * 100


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)

    data = load_digits()
    x = torch.from_numpy(data.data).float() / 16
    y = torch.from_numpy(data.target).long()
    split = np.random.default_rng(77).permutation(len(x))
    tr, te = torch.from_numpy(split[:1200]), torch.from_numpy(split[1200:])

    teacher = mlp(64, 256, 256, 10)
    train_plain(teacher, x[tr], y[tr], rng)
    print(f"teacher {accuracy(teacher, x[te], y[te]):.2f}")
    student = mlp(64, 16, 10)
    train_distilled(student, teacher, x[tr], y[tr], rng)
    print(f"top1 {accuracy(student, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
