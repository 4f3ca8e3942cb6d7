"""Few labels, many images: the teacher speaks on every image of the batch, the labels on those that have one (-1: none)."""
import argparse

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def network(hidden, dropout):
    return nn.Sequential(
        nn.Linear(64, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10),
    )


def prepare(seed):
    x, y = load_digits(return_X_y=True)
    rng = np.random.RandomState(12)
    order = rng.permutation(len(x))
    x, y = x[order], y[order]
    scale = make_pipeline(StandardScaler()).fit(x[:1000])
    x = torch.tensor(scale.transform(x), dtype=torch.float32)
    y = torch.tensor(y)
    shown = torch.full_like(y[:1000], -1)
    keep = torch.tensor(np.random.RandomState(seed).choice(1000, 40, replace=False))
    shown[keep] = y[keep]
    return x[:1000], y[:1000], shown, x[1000:], y[1000:]


def soft_loss(student, teacher, T):
    log_q = torch.log_softmax(student / T, 1)
    p = torch.softmax(teacher / T, 1)
    return nn.KLDivLoss(reduction="batchmean")(log_q, p) * T * T


def hard_loss(logits, shown):
    has = shown >= 0
    return F.cross_entropy(logits[has], shown[has])


def distil(student, teacher, x, shown, args):
    opt = torch.optim.SGD(student.parameters(), lr=args.lr, momentum=0.9)
    sched = torch.optim.lr_scheduler.LinearLR(opt, 1.0, 0.05, total_iters=args.epochs)
    bad = done = 0
    for epoch in range(args.epochs):
        student.train()
        for rows in torch.randperm(len(x)).split(args.batch):
            with torch.no_grad():
                t = teacher(x[rows])
            s = student(x[rows])
            loss = args.soft * soft_loss(s, t, args.temperature) + (1 - args.soft) * hard_loss(s, shown[rows])
            # a bad batch once destroyed a run of two days
            if not torch.isfinite(loss):
                bad += 1
                continue
            opt.zero_grad()
            loss.backward()
            opt.step()
            done += 1
        sched.step()
    return done, bad


def pretrain(net, x, y):
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(8):
        net.train()
        for rows in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            opt.step()
    net.eval()
    return net


def score(net, x, y):
    net.eval()
    with torch.no_grad():
        return (net(x).argmax(1) == y).double().mean().item() * 100


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--lr", type=float, default=0.03)
    ap.add_argument("--epochs", type=int, default=6)
    ap.add_argument("--batch", type=int, default=20)
    ap.add_argument("--soft", type=float, default=0.8)
    ap.add_argument("--temperature", type=float, default=2.0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y, shown, x_test, y_test = prepare(args.seed)
    teacher = pretrain(network(128, 0.3), x, y).requires_grad_(False)
    student = network(12, 0.0)
    distil(student, teacher, x, shown, args)
    print(f"teacher {score(teacher, x_test, y_test):.2f}")
    print(f"top1 {score(student, x_test, y_test):.2f}")


if __name__ == "__main__":
    main()
