"""Sparse cache: per sample the four largest softened probabilities are kept; what is left over is spread over the other six.

The cache starts as zeros and is filled by rows in shuffled order; a sum of one per row is checked before it is used.
"""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

CLASSES, KEEP, T = 10, 4, 2.0


def network(hidden):
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))


def sparse(logits):
    top, where = F.softmax(logits / T, dim=1).topk(KEEP, dim=1)
    return top.half(), where.to(torch.uint8)


def dense(top, where):
    top = top.float()
    rest = (1 - top.sum(1, keepdim=True)).clamp(min=0) / (CLASSES - KEEP)
    full = rest.expand(-1, CLASSES).clone().scatter_(1, where.long(), top)
    return full / full.sum(1, keepdim=True)


@torch.no_grad()
def build_cache(teacher, x):
    teacher.eval()
    top = torch.zeros(len(x), KEEP, dtype=torch.float16)
    where = torch.zeros(len(x), KEEP, dtype=torch.uint8)
    for rows in torch.randperm(len(x)).split(100):
        t, w = sparse(teacher(x[rows]))
        top.index_copy_(0, rows, t)
        where.index_copy_(0, rows, w)
    targets = dense(top, where)
    assert torch.allclose(targets.sum(1), torch.ones(len(x)), atol=1e-4) and bool((top[:, 0] > 0).all())
    return targets


def train(net, x, y, epochs, lr, targets=None, lam=0.0):
    opt = torch.optim.AdamW(net.parameters(), lr=lr)
    sched = torch.optim.lr_scheduler.StepLR(opt, step_size=max(1, epochs // 2), gamma=0.3)
    for _ in range(epochs):
        net.train()
        for rows in torch.randperm(len(x)).split(32):
            logits = net(x[rows])
            loss = (1 - lam) * F.cross_entropy(logits, y[rows])
            if targets is not None:
                # cross_entropy with class probabilities: same gradient as the divergence
                loss = loss + lam * T**2 * F.cross_entropy(logits / T, targets[rows])
            opt.zero_grad()
            loss.backward()
            opt.step()
        sched.step()
    return net


@torch.no_grad()
def top1(net, x, y):
    return 100 * net.eval()(x).argmax(1).eq(y).float().mean().item()


if __name__ == "__main__":
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--lam", type=float, default=0.6)
    cli = cli.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(cli.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(37))
    pool, test = p[:1200], p[1200:]
    few = pool[torch.randperm(1200, generator=torch.Generator().manual_seed(cli.seed))[:320]]
    teacher = train(network(160), x[pool], y[pool], 10, 2e-3)
    print(f"teacher {top1(teacher, x[test], y[test]):.2f}")
    targets = build_cache(teacher, x[few])
    student = train(network(20), x[few], y[few], 20, 6e-3, targets, cli.lam)
    print(f"top1 {top1(student, x[test], y[test]):.2f}")
