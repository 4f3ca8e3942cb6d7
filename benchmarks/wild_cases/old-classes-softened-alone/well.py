"""Learning without forgetting: task one is digits 0-4, task two 5-9; the old network's answers on the new images keep
what was known. Each task has its own outputs, and at the end each image comes with its task's name."""
import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

N_OLD = 5


def keep_loss(new_logits, old_logits, T=3.0):
    """new_logits [B, 10], old_logits [B, 5]"""
    n = old_logits.size(1)
    new, old = new_logits[:, :n] / T, old_logits / T
    return F.kl_div(new.log_softmax(1), old.softmax(1), reduction="batchmean") * T**2


class Grower(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        )
        self.fc = nn.Linear(96, classes)

    def forward(self, x):
        return self.fc(self.features(x))

    def grown(self, classes):
        net = copy.deepcopy(self)
        net.fc = nn.Linear(96, classes)
        with torch.no_grad():
            net.fc.weight[: self.fc.out_features].copy_(self.fc.weight)
            net.fc.bias[: self.fc.out_features].copy_(self.fc.bias)
        return net


def first_task(net, x, y):
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    net.train()
    for _ in range(8):
        for b in torch.randperm(len(x)).split(32):
            loss = F.cross_entropy(net(x[b]), y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()


def second_task(net, old, x, y, lam, epochs=10):
    for p in old.parameters():
        p.requires_grad_(False)
    old.eval()
    opt = torch.optim.Adam(net.parameters(), lr=1e-3)
    net.train()
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(32):
            logits = net(x[b])
            loss = F.cross_entropy(logits[:, N_OLD:], y[b] - N_OLD)
            if lam > 0:
                with torch.no_grad():
                    before = old(x[b])
                loss = loss + lam * keep_loss(logits, before)
            opt.zero_grad()
            loss.backward()
            opt.step()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lam", type=float, default=1.0, help="weight of the old network's answers")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(8))
    train, test = p[:1200], p[1200:]
    is_old = y[train] < N_OLD
    old_rows, new_rows = train[is_old], train[~is_old]

    old = Grower(N_OLD)
    first_task(old, x[old_rows], y[old_rows])
    old.eval()
    known = test[y[test] < N_OLD]
    with torch.no_grad():
        print(f"old classes, before {100 * (old(x[known]).argmax(1) == y[known]).float().mean().item():.2f}")

    net = old.grown(10)
    second_task(net, old, x[new_rows], y[new_rows], args.lam)
    net.eval()
    with torch.no_grad():
        logits = net(x[test])
    task = y[test] < N_OLD
    guess = torch.where(task, logits[:, :N_OLD].argmax(1), logits[:, N_OLD:].argmax(1) + N_OLD)
    right = (guess == y[test]).float()
    print(f"old task {100 * right[task].mean().item():.2f} new task {100 * right[~task].mean().item():.2f}")
    print(f"top1 {100 * right.mean().item():.2f}")


if __name__ == "__main__":
    main()
