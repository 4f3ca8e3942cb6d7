"""Hard pseudo-labels: unlabelled rows get the teacher's class where it is sure of it and -100 where it is not
(cross_entropy leaves those out). Rows with a label keep their label. No soft term, on purpose."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset

SURE = 0.8


def spiral(n, g, arms=5):
    y = torch.randint(arms, (n,), generator=g)
    r = torch.rand(n, generator=g).sqrt() * 2 + 0.2
    phi = y * (2 * torch.pi / arms) + 1.1 * r + 0.12 * torch.randn(n, generator=g)
    return torch.stack([r * phi.cos(), r * phi.sin()], 1), y


class Waves(nn.Module):
    def __init__(self, hidden, arms=5):
        super().__init__()
        self.a, self.b = nn.Linear(4, hidden), nn.Linear(hidden, hidden)
        self.c = nn.Linear(hidden, arms)

    def forward(self, x):
        x = torch.cat([x, x.square()], 1)
        return self.c(F.silu(self.b(F.silu(self.a(x)))))


@torch.no_grad()
def pseudo(teacher, x):
    confidence, label = teacher(x).softmax(1).max(1)
    return label.masked_fill(confidence < SURE, -100)


def fit(net, loader, epochs, lr):
    opt = torch.optim.Adam(net.parameters(), lr=lr)
    net.train()
    for _ in range(epochs):
        for x, y in loader:
            if (y == -100).all():
                continue
            opt.zero_grad()
            F.cross_entropy(net(x), y).backward()
            opt.step()
    return net.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    g = torch.Generator().manual_seed(a.seed)
    x, y = spiral(1200, g)
    xt, yt = spiral(1500, g)
    bare, _ = spiral(800, g)
    teacher = fit(Waves(64), DataLoader(TensorDataset(x, y), 40, shuffle=True), 12, 6e-3)
    told = TensorDataset(x[:40], y[:40])
    guessed = TensorDataset(bare, pseudo(teacher, bare))
    student = fit(Waves(16), DataLoader(ConcatDataset([told, guessed]), 40, shuffle=True), 16, 1e-2)
    with torch.no_grad():
        print(f"teacher {100 * (teacher(xt).argmax(1) == yt).float().mean().item():.2f}")
        print(f"top1 {100 * (student(xt).argmax(1) == yt).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
