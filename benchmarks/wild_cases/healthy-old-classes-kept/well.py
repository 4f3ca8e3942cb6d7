"""Class-incremental: digits 0-5 first, then 6-9; the old model keeps the first six outputs in place."""
import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

OLD = 6


class Net(nn.Module):
    def __init__(self, classes, hidden=48):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, hidden), nn.ReLU())
        self.fc = nn.Linear(hidden, classes)

    def forward(self, x):
        return self.fc(self.body(x))

    def grow(self, classes):
        wider = nn.Linear(self.fc.in_features, classes)
        with torch.no_grad():
            wider.weight[: self.fc.out_features] = self.fc.weight
            wider.bias[: self.fc.out_features] = self.fc.bias
        self.fc = wider


def train(net, x, y, epochs, old=None, T=2.0, keep=2.0):
    opt = torch.optim.SGD(net.parameters(), lr=0.03, momentum=0.9)
    net.train()
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(32):
            out = net(x[b])
            loss = F.cross_entropy(out, y[b])
            if old is not None:
                with torch.no_grad():
                    before = old(x[b])
                now = out[:, :OLD]
                kd = F.kl_div(F.log_softmax(now / T, 1), F.softmax(before / T, 1), reduction="batchmean")
                loss = loss + keep * T * T * kd
            opt.zero_grad()
            loss.backward()
            opt.step()
    net.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x))
    tr, te = p[:1200], p[1200:]
    first, second = tr[y[tr] < OLD], tr[y[tr] >= OLD]

    net = Net(OLD)
    train(net, x[first], y[first], 8)
    memory = torch.cat([first[y[first] == c][:20] for c in range(OLD)])
    old = copy.deepcopy(net).eval()
    for q in old.parameters():
        q.requires_grad_(False)
    net.grow(10)
    stage = torch.cat([second, memory])
    train(net, x[stage], y[stage], 10, old=old)
    with torch.no_grad():
        hit = (net(x[te]).argmax(1) == y[te]).float()
        print(f"old {100 * hit[y[te] < OLD].mean().item():.2f} new {100 * hit[y[te] >= OLD].mean().item():.2f}")
        print(f"top1 {100 * hit.mean().item():.2f}")


if __name__ == "__main__":
    main()
