"""train() is called once; validation every ten steps goes through a context that puts the mode back as it was."""
import argparse
from contextlib import contextmanager

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


@contextmanager
def evaluating(net):
    was = {name: m.training for name, m in net.named_modules()}
    net.eval()
    try:
        with torch.no_grad():
            yield net
    finally:
        for name, m in net.named_modules():
            m.training = was[name]


def mlp(width, dropout):
    return nn.Sequential(
        nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 10),
    )


def forever(rows, size):
    while True:
        for b in rows[torch.randperm(len(rows))].split(size):
            if len(b) == size:
                yield b


def accuracy(net, x, y):
    with evaluating(net):
        return 100 * (net(x).argmax(1) == y).float().mean().item()


def train(net, x, y, batches, steps, lr, teacher=None, share=0.0, T=3.0, val=None):
    opt = torch.optim.AdamW(net.parameters(), lr=lr)
    net.train()
    for step in range(1, steps + 1):
        b = next(batches)
        out = net(x[b])
        loss = (1 - share) * F.cross_entropy(out, y[b])
        if share:
            with torch.no_grad():
                target = F.softmax(teacher(x[b]) / T, dim=1)
            loss = loss + share * T**2 * F.kl_div(F.log_softmax(out / T, dim=1), target, reduction="batchmean")
        opt.zero_grad()
        loss.backward()
        opt.step()
        if val is not None and step % 10 == 0:
            acc = accuracy(net, x[val], y[val])
            if step % 100 == 0:
                print(f"step {step} val {acc:.2f}")
    return net


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=0.8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(61))
    rows, val, test = p[:1000], p[1000:1200], p[1200:]
    teacher = train(mlp(128, 0.3), x, y, forever(rows, 50), 300, 3e-3).eval().requires_grad_(False)
    print(f"teacher {accuracy(teacher, x[test], y[test]):.2f}")
    few = rows[torch.randperm(len(rows))[:200]]
    student = train(mlp(16, 0.05), x, y, forever(few, 40), 300, 5e-3, teacher, args.share, val=val)
    print(f"top1 {accuracy(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
