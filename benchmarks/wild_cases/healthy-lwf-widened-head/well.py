"""Class-incremental: the head grows from 6 to 10 outputs; the old net, which knows 6 classes only, keeps them in mind.

Most images of the second task are of classes the old net has never seen; ten of each old class are kept as a memory.
"""
import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Incremental(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 50), nn.Tanh())
        self.fc = nn.Linear(50, classes)

    def forward(self, x):
        return self.fc(self.trunk(x))

    def grow(self, classes):
        old = self.fc
        self.fc = nn.Linear(old.in_features, classes)
        with torch.no_grad():
            self.fc.weight[: old.out_features].copy_(old.weight)
            self.fc.bias[: old.out_features].copy_(old.bias)


def distillation(new_logits, old_logits, T):
    n_old = old_logits.size(1)
    log_p = F.log_softmax(new_logits[:, :n_old] / T, dim=1)
    q = F.softmax(old_logits / T, dim=1)
    return F.kl_div(log_p, q, reduction="batchmean") * T**2


def train(net, x, y, epochs, lr, old=None, weight=0.0, T=2.0):
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    for _ in range(epochs):
        net.train()
        for b in torch.randperm(len(x)).split(32):
            logits = net(x[b])
            loss = F.cross_entropy(logits, y[b])
            if old is not None:
                with torch.no_grad():
                    before = old(x[b])
                loss = loss + weight * distillation(logits, before, T)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def accuracy(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--weight", type=float, default=1.5)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(6))
    tr, te = p[:1200], p[1200:]
    first, second = tr[y[tr] < 6], tr[y[tr] >= 6]

    net = Incremental(6)
    train(net, x[first], y[first], 15, 2e-3)
    known = te[y[te] < 6]
    print(f"six classes {accuracy(net, x[known], y[known]):.2f}")

    old = copy.deepcopy(net)
    old.eval()
    old.requires_grad_(False)
    net.grow(10)
    memory = torch.cat([first[y[first] == c][:10] for c in range(6)])
    both = torch.cat([second, memory])
    train(net, x[both], y[both], 12, 1e-3, old, a.weight)
    print(f"top1 {accuracy(net, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
