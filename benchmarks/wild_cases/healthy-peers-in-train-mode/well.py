"""Deep mutual learning: three peers teach each other. All are in training mode, all are trained, one optimizer holds all."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Cohort(nn.Module):
    def __init__(self, *peers):
        super().__init__()
        self.peers = nn.ModuleList(peers)

    def forward(self, x):
        return [peer(x) for peer in self.peers]


class MutualLoss(nn.Module):
    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = weight

    def forward(self, outputs, y):
        total = 0
        for i, mine in enumerate(outputs):
            others = [o.detach() for j, o in enumerate(outputs) if j != i]
            kl = sum(F.kl_div(F.log_softmax(mine, 1), F.softmax(o, 1), reduction="batchmean") for o in others)
            total = total + F.cross_entropy(mine, y) + self.weight * kl / len(others)
        return total  # summed over peers: no peer's gradient depends on another's term


def peer(width):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Dropout(0.1), nn.Linear(8 * width, 10),
    )


def epoch(cohort, criterion, optimizer, x, y, rows):
    cohort.train()
    for b in rows[torch.randperm(len(rows))].split(32):
        loss = criterion(cohort(x[b]), y[b])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def evaluate(cohort, x, y):
    cohort.eval()
    return [100 * (out.argmax(1) == y).float().mean().item() for out in cohort(x)]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--weight", type=float, default=1.0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(14))
    train, test = p[:400], p[1100:]
    cohort = Cohort(peer(4), peer(8), peer(6))
    optimizer = torch.optim.SGD(cohort.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [14, 18], 0.2)
    criterion = MutualLoss(args.weight)
    for _ in range(20):
        epoch(cohort, criterion, optimizer, x, y, train)
        scheduler.step()
    scores = evaluate(cohort, x[test], y[test])
    print("peers", " ".join(f"{s:.2f}" for s in scores))
    print(f"top1 {scores[0]:.2f}")  # the smallest is the one to keep


if __name__ == "__main__":
    main()
