"""Born again: every generation has the same form, starts anew, and learns from the generation before."""
import argparse
import copy

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


def newborn():
    return nn.Sequential(
        nn.Unflatten(1, (1, 64)),
        nn.Conv1d(1, 8, 8, stride=4), nn.BatchNorm1d(8), nn.ReLU(),
        nn.Flatten(), nn.Dropout(0.1), nn.Linear(8 * 15, 10),
    )


def objective(logits, parent_logits, y):
    hard = F.cross_entropy(logits, y)
    if parent_logits is None:
        return hard
    # cross-entropy with the parent's distribution, at temperature one
    soft = -(F.softmax(parent_logits, dim=1) * F.log_softmax(logits, dim=1)).sum(dim=1).mean()
    return 0.5 * hard + 0.5 * soft


def raise_child(parent, x, y, epochs):
    child = newborn()
    optimizer = torch.optim.SGD(child.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    for _ in range(epochs):
        child.train()
        for batch in torch.randperm(len(x)).split(32):
            parent_logits = None
            if parent is not None:
                with torch.no_grad():
                    parent_logits = parent(x[batch])
            loss = objective(child(x[batch]), parent_logits, y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
    return child.eval()


def top1(model, x, y):
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item() * 100


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--generations", type=int, default=3)
    cli.add_argument("--epochs", type=int, default=20)
    args = cli.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 8 - 1, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(404))
    train, test = p[:600], p[1000:]
    generation = None
    for k in range(args.generations):
        parent = copy.deepcopy(generation)
        generation = raise_child(parent, x[train], y[train], args.epochs)
        print(f"generation {k} {top1(generation, x[test], y[test]):.2f}")
    print(f"top1 {top1(generation, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
