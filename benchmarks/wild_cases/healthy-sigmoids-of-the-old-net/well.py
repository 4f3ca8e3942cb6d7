"""Classes come in two tasks; each class is a yes-or-no question, and for the old ones the old net's answer replaces the label."""
import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Learner(nn.Module):
    def __init__(self, classes, hidden=96):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.fc = nn.Linear(hidden, classes)

    def forward(self, x):
        return self.fc(self.body(x))

    def widen(self, extra):
        """A head with more classes, that answers on the old ones as before."""
        old = self.fc
        self.fc = nn.Linear(old.in_features, old.out_features + extra)
        with torch.no_grad():
            self.fc.weight[:old.out_features] = old.weight
            self.fc.bias[:old.out_features] = old.bias


def targets_for(x, y, classes, old_net):
    targets = F.one_hot(y, classes).float()
    if old_net is not None:
        with torch.no_grad():
            answers = torch.sigmoid(old_net(x))
        targets[:, :answers.shape[1]] = answers
    return targets


def learn(net, x, y, old_net=None, epochs=40, lr=2e-3):
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    net.train()
    for epoch in range(epochs):
        for b in torch.randperm(len(x)).split(40):
            logits = net(x[b])
            targets = targets_for(x[b], y[b], logits.shape[1], old_net)
            loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def exemplars(x, y, per_class):
    rows = torch.cat([(y == c).nonzero()[:per_class, 0] for c in y.unique()])
    return x[rows], y[rows]


@torch.no_grad()
def top1(net, x, y):
    return 100 * (net(x).argmax(1) == y).float().mean().item()


def load():
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(816))
    return (x[p[:1000]], y[p[:1000]]), (x[p[1000:]], y[p[1000:]])


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    (x, y), (xt, yt) = load()
    first, known = y < 6, yt < 6
    net = learn(Learner(6), x[first], y[first])
    print(f"teacher {top1(net, xt[known], yt[known]):.2f} (six classes)")
    kept = exemplars(x[first], y[first], 20)
    old_net = copy.deepcopy(net).eval().requires_grad_(False)
    net.widen(4)
    learn(net, torch.cat([x[~first], kept[0]]), torch.cat([y[~first], kept[1]]), old_net)
    print(f"top1 {top1(net, xt, yt):.2f}")


if __name__ == "__main__":
    main()
