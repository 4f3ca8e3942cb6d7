"""Deep mutual learning: two nets, no teacher; each learns labels and the other's answers of the moment."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def net(width):
    return nn.Sequential(nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10))


def kd_loss(own_logits, peer_logits):
    return F.kl_div(F.log_softmax(own_logits, 1), F.softmax(peer_logits.detach(), 1), reduction="batchmean")


class Mutual:
    def __init__(self, nets, lr=0.05):
        self.nets = nets
        self.optimizers = [torch.optim.SGD(n.parameters(), lr=lr, momentum=0.9) for n in nets]

    def step(self, x, y):
        for k, optimizer in enumerate(self.optimizers):
            logits = [n(x) for n in self.nets]
            own = logits[k]
            peers = [l for j, l in enumerate(logits) if j != k]
            loss = F.cross_entropy(own, y) + sum(kd_loss(own, p) for p in peers) / len(peers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def mode(self, training):
        for n in self.nets:
            n.train(training)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(6))
    x, y = x[p], y[p]
    pair = Mutual([net(24), net(16)])
    pair.mode(True)
    for _ in range(20):
        for i in torch.randperm(300).split(30):
            pair.step(x[i], y[i])
    pair.mode(False)
    with torch.no_grad():
        print(f"top1 {100 * (pair.nets[1](x[1100:]).argmax(1) == y[1100:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
