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


class Exits(nn.Module):
    def __init__(self, d=40):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(64 if i == 0 else d, d), nn.ReLU()) for i in range(3)])
        self.heads = nn.ModuleList([nn.Linear(d, 10) for _ in range(3)])

    def forward(self, x):
        outs = []
        for block, head in zip(self.blocks, self.heads):
            x = block(x)
            outs.append(head(x))
        return outs if self.training else outs[0]


def self_distillation(outs, y, T=3.0, w=0.5):
    *early, deepest = outs
    soft = (deepest.detach() / T).softmax(1)
    loss = F.cross_entropy(deepest, y)
    for o in early:
        loss = loss + (1 - w) * F.cross_entropy(o, y) + w * T**2 * F.cross_entropy(o / T, soft)
    return loss


def main():
    """Serves the first exit only; the deepest one is the teacher while training."""
    setup()
    x, y, vx, vy = digits(302)
    model = Exits()
    opt = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(250):
        b = torch.randint(500, (50,))
        loss = self_distillation(model(x[b]), y[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(f"top1 {top1(model, vx, vy):.2f}")


if __name__ == "__main__":
    main()
