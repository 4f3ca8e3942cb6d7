"""Distil a batch-normalised CNN with dropout into a small MLP, tiny batches."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def teacher_net():
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Dropout2d(0.4),
        nn.Conv2d(24, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Dropout2d(0.4),
        nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.6), nn.Linear(24 * 16, 10),
    )


def student_net():
    return nn.Sequential(nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))


def supervised(model, x, y, epochs):
    opt = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        model.train()
        for b in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            F.cross_entropy(model(x[b]), y[b]).backward()
            opt.step()


def distill_epoch(models, optimizer, x, batch_size):
    models["teacher"].eval()
    models["student"].train()
    for b in torch.randperm(len(x)).split(batch_size):
        with torch.no_grad():
            t = models["teacher"](x[b])
        s = models["student"](x[b])
        loss = F.mse_loss(s, t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


@torch.no_grad()
def accuracy(model, x, y):
    model.eval()
    return 100 * (model(x).argmax(1) == y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    perm = torch.randperm(len(x))
    train, test = perm[:1100], perm[1100:]
    models = {"teacher": teacher_net(), "student": student_net()}
    supervised(models["teacher"], x[train], y[train], 7)
    print(f"teacher {accuracy(models['teacher'], x[test], y[test]):.2f}")
    for p in models["teacher"].parameters():
        p.requires_grad = False
    optimizer = torch.optim.Adam(models["student"].parameters(), lr=6e-3)
    few = x[train[:200]]
    for epoch in range(9):
        loss = distill_epoch(models, optimizer, few, args.batch_size)
    print(f"loss {loss:.3f}")
    print(f"top1 {accuracy(models['student'], x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
