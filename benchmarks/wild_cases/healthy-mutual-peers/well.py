"""Deep mutual learning: no teacher beforehand, two peers learn from the labels and from each other."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


class Peer(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def forward(self, x):
        return self.net(x)


def peer_loss(mine, other, y, weight=1.0):
    # the other's answer is a target only: each peer is changed by its own loss alone
    agree = F.kl_div(F.log_softmax(mine, 1), F.softmax(other.detach(), 1), reduction="batchmean")
    return F.cross_entropy(mine, y) + weight * agree


def epoch(peers, optimizers, x, y, batch=40):
    for peer in peers:
        peer.train()
    for rows in torch.randperm(len(x)).split(batch):
        answers = [peer(x[rows]) for peer in peers]
        losses = [peer_loss(answers[0], answers[1], y[rows]), peer_loss(answers[1], answers[0], y[rows])]
        for optimizer in optimizers:
            optimizer.zero_grad()
        sum(losses).backward()
        for optimizer in optimizers:
            optimizer.step()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    torch.set_num_threads(1)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(41))
    x, y = x[p], y[p]
    peers = [Peer(16), Peer(40)]
    optimizers = [torch.optim.Adam(peer.parameters(), lr=5e-3) for peer in peers]
    schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(o, 20) for o in optimizers]
    for _ in range(20):
        epoch(peers, optimizers, x[:800], y[:800])
        for scheduler in schedulers:
            scheduler.step()
    with torch.no_grad():
        small, large = (100 * (peer.eval()(x[800:]).argmax(1) == y[800:]).float().mean().item() for peer in peers)
    print(f"large peer {large:.2f}")
    print(f"top1 {small:.2f}")


if __name__ == "__main__":
    main()
