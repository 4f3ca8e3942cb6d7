"""Federated KD: each round, every client trains a copy of the student on its own shard with a fresh optimizer; the server only averages. No optimizer ever holds the global student."""
import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def net(h):
    return nn.Sequential(nn.Linear(64, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, 10))


def client(server, teacher, x, y, lr, tau=4.0, alpha=0.7, epochs=2):
    mine = copy.deepcopy(server).train()
    opt = torch.optim.SGD(mine.parameters(), lr=lr, momentum=0.9)
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(25):
            with torch.no_grad():
                target = F.softmax(teacher(x[b]) / tau, 1)
            s = mine(x[b])
            kd = F.kl_div(F.log_softmax(s / tau, 1), target, reduction="batchmean") * tau ** 2
            loss = alpha * kd + (1 - alpha) * F.cross_entropy(s, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    return mine.state_dict(), len(x)


def merge(server, replies):
    total = sum(n for _, n in replies)
    server.load_state_dict({k: sum(sd[k] * (n / total) for sd, n in replies) for k in server.state_dict()})


@torch.no_grad()
def top1(m, x, y):
    m.eval()
    return 100 * (m(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--rounds", type=int, default=12)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(99))
    tr, te = p[:1200], p[1200:]
    teacher = net(160)
    opt = torch.optim.Adam(teacher.parameters(), lr=1e-3)
    for _ in range(25):
        for b in tr[torch.randperm(1200)].split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    print(f"teacher {top1(teacher, x[te], y[te]):.2f}")
    shards = tr.tensor_split([250, 600, 900])
    server = net(28)
    for r in range(a.rounds):
        replies = [client(server, teacher, x[s], y[s], lr=0.05 * 0.93 ** r) for s in shards]
        merge(server, replies)
        print(f"round {r} {top1(server, x[te], y[te]):.2f}")
    print(f"top1 {top1(server, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
