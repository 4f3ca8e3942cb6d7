"""Deep mutual learning: two students from scratch, no teacher that is there before."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


def student(width, activation):
    return nn.Sequential(
        nn.Linear(64, width), nn.BatchNorm1d(width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, 10)
    )


class Peers:
    def __init__(self, nets, lr=3e-3):
        self.nets = nets
        self.optimizers = [torch.optim.Adam(net.parameters(), lr=lr) for net in nets]

    def step(self, x, y):
        outs = [net(x) for net in self.nets]
        losses = []
        for mine, other in (outs, outs[::-1]):
            mimic = F.kl_div(F.log_softmax(mine, 1), F.softmax(other.detach(), 1), reduction="batchmean")
            losses.append(F.cross_entropy(mine, y) + mimic)
        for opt, loss in zip(self.optimizers, losses):
            opt.zero_grad()
            loss.backward()
            opt.step()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(505))
    train, test = p[:600], p[1200:]
    peers = Peers([student(32, nn.ReLU), student(24, nn.Tanh)])
    for _ in range(25):
        for net in peers.nets:
            net.train()
        for b in train[torch.randperm(len(train))].split(30):
            peers.step(x[b], y[b])
    scores = []
    with torch.no_grad():
        for net in peers.nets:
            scores.append(100 * (net.eval()(x[test]).argmax(1) == y[test]).float().mean().item())
    print(f"peers {scores}")
    print(f"top1 {scores[0]:.2f}")


if __name__ == "__main__":
    main()
