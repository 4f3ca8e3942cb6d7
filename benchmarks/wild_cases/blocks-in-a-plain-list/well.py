"""A small transformer reads the digit row by row and learns from a wider one."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.ff = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, h):
        n = self.norm1(h)
        h = h + self.attn(n, n, n, need_weights=False)[0]
        return h + self.ff(self.norm2(h))


class RowTransformer(nn.Module):
    """8 tokens of 8 pixels, mean pooled."""

    def __init__(self, dim, depth, heads=2):
        super().__init__()
        self.embed = nn.Linear(8, dim)
        self.position = nn.Parameter(0.02 * torch.randn(8, dim))
        self.encoder = nn.ModuleList([Block(dim, heads) for _ in range(depth)])
        self.head = nn.Linear(dim, 10)

    def forward(self, x):
        h = self.embed(x.view(-1, 8, 8)) + self.position
        for block in self.encoder:
            h = block(h)
        return self.head(h.mean(1))


class TinyRowTransformer(nn.Module):
    def __init__(self, dim, depth):
        super().__init__()
        self.embed = nn.Linear(8, dim)
        self.position = nn.Parameter(0.02 * torch.randn(8, dim))
        self.layers = nn.ModuleList(Block(dim, 1) for _ in range(depth))
        self.head = nn.Linear(dim, 10)

    def forward(self, x):
        h = self.embed(x.view(-1, 8, 8)) + self.position
        for layer in self.layers:
            h = layer(h)
        return self.head(h.mean(1))


def kd(s, t, y, tau=2.0, w=0.8):
    soft = torch.sum(F.softmax(t / tau, -1) * (F.log_softmax(t / tau, -1) - F.log_softmax(s / tau, -1)), -1).mean()
    return w * tau * tau * soft + (1 - w) * F.cross_entropy(s, y)


def run(model, x, y, epochs, teacher=None, lr=5e-3):
    opt = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    for _ in range(epochs):
        model.train()
        for b in torch.randperm(len(x)).split(64):
            out = model(x[b])
            if teacher is None:
                loss = F.cross_entropy(out, y[b])
            else:
                with torch.no_grad():
                    t = teacher(x[b])
                loss = kd(out, t, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    return model.eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x))
    tr, te = p[:1100], p[1100:]
    teacher = run(RowTransformer(32, 1), x[tr], y[tr], 14).requires_grad_(False)
    student = run(TinyRowTransformer(8, 3), x[tr], y[tr], 18, teacher)
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[te]).argmax(1) == y[te]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[te]).argmax(1) == y[te]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
