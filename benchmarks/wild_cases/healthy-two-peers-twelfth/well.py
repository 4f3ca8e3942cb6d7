"""Deep mutual learning (Zhang et al. 2018): nobody is trained beforehand. Two students learn side by side from the
labels and from each other, so both are in training mode and both have an optimizer; each one's answers are
constants for the other. They meet on all images; only some have labels."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def peer(width, depth):
    layers = [nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def agree(mine, other):
    return F.kl_div(F.log_softmax(mine, 1), F.softmax(other.detach(), 1), reduction="batchmean")


class Mutual:
    def __init__(self, peers, lr, weight):
        self.peers, self.weight = peers, weight
        self.optimizers = [torch.optim.SGD(p.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4) for p in peers]

    def step(self, x, y):
        logits = [p(x) for p in self.peers]
        known = y >= 0
        for i, opt in enumerate(self.optimizers):
            loss = self.weight * agree(logits[i], logits[1 - i])
            if known.any():
                loss = loss + F.cross_entropy(logits[i][known], y[known])
            opt.zero_grad()
            loss.backward()
            opt.step()

    def fit(self, x, y, epochs, batch):
        for p in self.peers:
            p.train()
        for _ in range(epochs):
            for b in torch.randperm(len(x)).split(batch):
                self.step(x[b], y[b])
        for p in self.peers:
            p.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--weight", type=float, default=1.0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(77))
    train, test = p[:1100], p[1100:]
    shown = torch.full_like(y, -1)
    labelled = train[torch.randperm(1100)[:300]]
    shown[labelled] = y[labelled]
    small, large = peer(14, 1), peer(96, 2)
    Mutual([small, large], 0.03, a.weight).fit(x[train], shown[train], epochs=25, batch=50)
    with torch.no_grad():
        for name, net in (("peer", large), ("top1", small)):
            print(f"{name} {100 * (net(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
