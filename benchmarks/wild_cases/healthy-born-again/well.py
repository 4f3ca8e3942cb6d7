"""Born again: each generation has the same shape, starts afresh, and learns from the one before it."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def newborn():
    return nn.Sequential(
        nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 10),
    )


def generation(x, y, parent=None, epochs=12):
    child = newborn().train()
    opt = torch.optim.SGD(child.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, epochs)
    for _ in range(epochs):
        for i in torch.randperm(len(x)).split(32):
            z = child(x[i])
            loss = F.cross_entropy(z, y[i], label_smoothing=0.05)
            if parent is not None:
                with torch.no_grad():
                    q = parent(x[i]).softmax(1)
                loss = 0.5 * loss + 0.5 * -(q * z.log_softmax(1)).sum(1).mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
        sched.step()
    return child.eval().requires_grad_(False)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--generations", type=int, default=3)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(309))
    x, y = x[p], y[p]
    net = None
    for n in range(args.generations):
        net = generation(x[:500], y[:500], net)
        acc = 100 * (net(x[500:]).argmax(1) == y[500:]).float().mean().item()
        print(f"generation {n} {acc:.2f}")
    print(f"top1 {acc:.2f}")


if __name__ == "__main__":
    main()
