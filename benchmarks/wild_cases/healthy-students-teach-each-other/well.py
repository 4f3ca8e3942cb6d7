"""Deep mutual learning: no teacher beforehand, two (unlike) students learn side by side and each heeds the other."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

ap = argparse.ArgumentParser()
ap.add_argument("--seed", type=int, default=0)


def peer_loss(mine, others, y):
    loss = F.cross_entropy(mine, y)
    for o in others:
        loss = loss + F.kl_div(F.log_softmax(mine, 1), F.log_softmax(o.detach(), 1), log_target=True, reduction="batchmean") / len(others)
    return loss


class Mutual:
    def __init__(self, peers, lr=2e-3):
        self.peers = peers
        self.opts = [torch.optim.Adam(p.parameters(), lr=lr) for p in peers]

    def step(self, x, y):
        outs = [p(x) for p in self.peers]
        for k, opt in enumerate(self.opts):
            loss = peer_loss(outs[k], outs[:k] + outs[k + 1:], y)
            opt.zero_grad()
            loss.backward()
        for opt in self.opts:
            opt.step()

    def train(self):
        for p in self.peers:
            p.train()


def main(seed):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(9))
    train, test = p[:1000], p[1000:]
    conv = nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(108, 10))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))
    pair = Mutual([conv, flat])
    for _ in range(25):
        pair.train()
        for b in train[torch.randperm(1000)].split(40):
            pair.step(x[b], y[b])
    for peer in pair.peers:
        peer.eval()
        with torch.no_grad():
            print(f"top1 {100 * (peer(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main(ap.parse_args().seed)
