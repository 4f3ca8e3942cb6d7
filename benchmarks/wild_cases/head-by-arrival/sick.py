"""Learning without forgetting: six digits first, four more later; the model of the first task teaches the second.
Every model's head has its classes in the order in which they arrived, save the final one, which has them by label."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

ARRIVAL = [7, 2, 9, 4, 0, 5, 1, 8, 3, 6]
FIRST = 6


class IncrementalNet(nn.Module):
    def __init__(self, n_out, width=48):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(96, width), nn.ReLU(),
        )
        self.fc = nn.Linear(width, n_out)

    def forward(self, x):
        return self.fc(self.features(x))


class Memory:
    """A few images of each old class."""

    def __init__(self, per_class):
        self.per_class, self.x, self.y = per_class, [], []

    def remember(self, x, y, classes):
        for c in classes:
            rows = (y == c).nonzero().flatten()[: self.per_class]
            self.x.append(x[rows])
            self.y.append(y[rows])

    def merged_with(self, x, y):
        return torch.cat([x, *self.x]), torch.cat([y, *self.y])


def first_task(x, y, epochs=12):
    slot = torch.full((10,), -1)
    slot[ARRIVAL[:FIRST]] = torch.arange(FIRST)
    net = IncrementalNet(FIRST)
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(32):
            loss = F.cross_entropy(net(x[rows]), slot[y[rows]])
            opt.zero_grad()
            loss.backward()
            opt.step()
    return net


def retention_loss(logits, old_logits, T=2.0):
    """what the old model said about its classes"""
    mine = logits[:, :FIRST]
    return T**2 * F.kl_div(F.log_softmax(mine / T, 1), F.softmax(old_logits / T, 1), reduction="batchmean")


def second_task(net, old, x, y, epochs=12, strength=1.0):
    old.eval()
    opt = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    for _ in range(epochs):
        net.train()
        for rows in torch.randperm(len(x)).split(32):
            logits = net(x[rows])
            with torch.no_grad():
                before = old(x[rows])
            loss = F.cross_entropy(logits, y[rows]) + strength * retention_loss(logits, before)
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            opt.step()
    return net


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--strength", type=float, default=1.0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(66))
    xt, yt, x, y = x[p[1200:]], y[p[1200:]], x[p[:1200]], y[p[:1200]]
    is_old = torch.isin(y, torch.tensor(ARRIVAL[:FIRST]))

    old = first_task(x[is_old], y[is_old])
    memory = Memory(per_class=8)
    memory.remember(x, y, ARRIVAL[:FIRST])

    net = IncrementalNet(10)
    net.features.load_state_dict(old.features.state_dict())
    second_task(net, old, *memory.merged_with(x[~is_old], y[~is_old]), strength=a.strength)

    net.eval()
    with torch.no_grad():
        hit = net(xt).argmax(1) == yt
    was_old = torch.isin(yt, torch.tensor(ARRIVAL[:FIRST]))
    print(f"old {100 * hit[was_old].float().mean():.2f} new {100 * hit[~was_old].float().mean():.2f}")
    print(f"top1 {100 * hit.float().mean():.2f}")


if __name__ == "__main__":
    main()
