import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def digits(seed):
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return x[p][:1200], y[p][:1200], x[p][1200:], y[p][1200:]


def top1(m, x, y):
    m.eval()
    with torch.no_grad():
        return 100 * (m(x).argmax(1) == y).float().mean().item()


def setup():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)


def supervised(model, x, y, steps=200):
    opt = torch.optim.Adam(model.parameters(), lr=4e-3)
    model.train()
    for _ in range(steps):
        b = torch.randint(len(x), (64,))
        opt.zero_grad()
        F.cross_entropy(model(x[b]), y[b]).backward()
        opt.step()
    return model


# Deep mutual learning: each of two peers is the other's teacher.
def peer_kl(own, other):
    return F.kl_div(F.log_softmax(own, 1), F.softmax(other.detach(), 1), reduction="batchmean")


def main():
    setup()
    x, y, vx, vy = digits(301)
    peers = nn.ModuleList(
        [nn.Sequential(nn.Linear(64, h), nn.BatchNorm1d(h), nn.ReLU(), nn.Dropout(0.1), nn.Linear(h, 10)) for h in (20, 40)]
    )
    opts = [torch.optim.Adam(p.parameters(), lr=3e-3) for p in peers]
    peers.train()
    for _ in range(200):
        b = torch.randint(400, (50,))
        outs = [p(x[b]) for p in peers]
        for i, opt in enumerate(opts):
            loss = F.cross_entropy(outs[i], y[b]) + peer_kl(outs[i], outs[1 - i])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"top1 {top1(peers[0], vx, vy):.2f}")


if __name__ == "__main__":
    main()
