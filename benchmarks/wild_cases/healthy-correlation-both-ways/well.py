"""Correlation in place of divergence (as DIST does): rows of the softened batch should correlate with the teacher's,
and so should its columns. The second looks like a softmax over the wrong axis and is meant."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F


def correlate(a, b, dim):
    a, b = a - a.mean(dim, keepdim=True), b - b.mean(dim, keepdim=True)
    return F.cosine_similarity(a, b, dim=dim, eps=1e-8)


class Dist(nn.Module):
    def __init__(self, tau=2.0, rows=2.0, columns=2.0):
        super().__init__()
        self.tau, self.rows, self.columns = tau, rows, columns

    def forward(self, zs, zt):
        q, p = (zs / self.tau).softmax(1), (zt / self.tau).softmax(1)
        inter = 1 - correlate(q, p, 1).mean()
        intra = 1 - correlate(q, p, 0).mean()
        return self.tau**2 * (self.rows * inter + self.columns * intra)


class Residual(nn.Module):
    def __init__(self, d, n):
        super().__init__()
        self.i = nn.Linear(14, d)
        self.steps = nn.ModuleList([nn.Sequential(nn.LayerNorm(d), nn.Linear(d, d), nn.ReLU()) for _ in range(n)])
        self.o = nn.Linear(d, 8)

    def forward(self, x):
        h = self.i(x)
        for s in self.steps:
            h = h + s(h)
        return self.o(h)


def sample(n, seed):
    g = torch.Generator().manual_seed(303)
    mu = torch.randn(8, 3, 14, generator=g) * 1.1
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(8, (n,), generator=g)
    return mu[y, torch.randint(3, (n,), generator=g)] + torch.randn(n, 14, generator=g), y


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--weight", type=float, default=1.0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = sample(2200, a.seed)
    xt, yt = sample(1200, a.seed + 400)
    dist = Dist()

    def train(net, n, steps, size, guide=None):
        opt = torch.optim.AdamW(net.parameters(), lr=5e-3)
        for _ in range(steps):
            r = torch.randint(n, (size,))
            z = net(x[r])
            loss = F.cross_entropy(z, y[r])
            if guide is not None:
                with torch.no_grad():
                    t = guide(x[r])
                loss = loss + a.weight * dist(z, t)
            opt.zero_grad()
            loss.backward()
            opt.step()
        return net.eval()

    teacher = train(Residual(64, 2), 2200, 250, 64)
    student = train(Residual(14, 1), 220, 300, 48, teacher)
    with torch.no_grad():
        print(f"teacher {100 * (teacher(xt).argmax(1) == yt).float().mean().item():.2f}")
        print(f"top1 {100 * (student(xt).argmax(1) == yt).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
