"""Two nets from scratch, each the other's teacher, each with its own optimizer."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Peer:
    def __init__(self, net, lr):
        self.net = net
        self.optimizer = torch.optim.Adam(net.parameters(), lr=lr)

    def learn(self, x, y, other):
        self.net.train()
        z = self.net(x)
        loss = F.cross_entropy(z, y)
        if other is not None:
            loss = loss + F.kl_div(F.log_softmax(z, 1), F.log_softmax(other, 1), log_target=True, reduction="batchmean")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def say(self, x):
        self.net.eval()
        return self.net(x)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--alone", action="store_true")
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(923))
    train, test = p[:1100][torch.randperm(1100)[:250]], p[1100:]
    big = Peer(nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)), 3e-3)
    small = Peer(nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10)), 5e-3)
    for _ in range(25):
        for b in train[torch.randperm(len(train))].split(25):
            for me, other in ((big, small), (small, big)):
                me.learn(x[b], y[b], None if args.alone else other.say(x[b]))
    print(f"peer {100 * (big.say(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")
    print(f"top1 {100 * (small.say(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
