"""Deep mutual learning: two networks learn together, each from the labels and from what the other says meanwhile.
Both are trained, on purpose; what a net learns from is detached."""
import argparse
import itertools

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def mimic(own, other, T=2.0):
    return T**2 * F.kl_div(F.log_softmax(own / T, 1), F.softmax(other.detach() / T, 1), reduction="batchmean")


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Linear(256, 10)

    def forward(self, x):
        return self.fc(F.max_pool2d(F.relu(self.bn(self.conv(x))), 2).flatten(1))


class Narrow(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.05), nn.Linear(16, 10))

    def forward(self, x):
        return self.net(x)


def step(peers, optimizers, x, y, weight):
    answers = [net(x) for net in peers]
    losses = []
    for own, other in itertools.permutations(answers, 2):
        losses.append(F.cross_entropy(own, y) + weight * mimic(own, other))
    for optimizer in optimizers:
        optimizer.zero_grad()
    sum(losses).backward()  # the peers share nothing, and targets are detached: each loss reaches one net only
    for optimizer in optimizers:
        optimizer.step()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--weight", type=float, default=1.0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(17))
    few, test = p[:1100][torch.randperm(1100)[:300]], p[1100:]
    peers = [Wide(), Narrow()]
    optimizers = [torch.optim.Adam(peers[0].parameters(), lr=2e-3), torch.optim.Adam(peers[1].parameters(), lr=4e-3)]
    for _ in range(30):
        for net in peers:
            net.train()
        for b in few[torch.randperm(len(few))].split(30):
            step(peers, optimizers, x[b], y[b], a.weight)
    with torch.no_grad():
        accs = [100 * (net.eval()(x[test]).argmax(1) == y[test]).float().mean().item() for net in peers]
    print(f"wide {accs[0]:.2f}")
    print(f"top1 {accs[1]:.2f}")


if __name__ == "__main__":
    main()
