"""Warm-up and cosine, stepped after every batch: all its lengths are in batches. The clip comes after backward."""
import argparse
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


def warmup_cosine(warmup, total):
    def factor(step):
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))

    return factor


class PatchFormer(nn.Module):
    def __init__(self, dim, depth):
        super().__init__()
        self.embed = nn.Linear(8, dim)
        self.pos = nn.Parameter(torch.zeros(1, 8, dim))
        layer = nn.TransformerEncoderLayer(dim, 2, 2 * dim, dropout=0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(dim, 10)

    def forward(self, x):
        return self.head(self.body(self.embed(x) + self.pos).mean(1))


def train(net, loader, epochs, lr, teacher=None, alpha=0.0, T=2.0):
    total = epochs * len(loader)
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(total // 10, total))
    net.train()
    for _ in range(epochs):
        for x, y in loader:
            logits = net(x)
            loss = (1 - alpha) * F.cross_entropy(logits, y)
            if alpha > 0:
                with torch.no_grad():
                    target = F.softmax(teacher(x) / T, dim=-1)
                # cross-entropy with soft targets; its gradient is that of the divergence
                loss = loss + alpha * T**2 * F.cross_entropy(logits / T, target)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimizer.step()
            scheduler.step()
    return net.eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alpha", type=float, default=0.7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(83))
    rows, test = p[:1100], p[1100:]
    few = rows[torch.randperm(len(rows))[:200]]
    teacher = train(PatchFormer(32, 2), DataLoader(TensorDataset(x[rows], y[rows]), 50, shuffle=True), 12, 4e-3)
    teacher.requires_grad_(False)
    loader = DataLoader(TensorDataset(x[few], y[few]), 25, shuffle=True)
    student = train(PatchFormer(12, 1), loader, 40, 8e-3, teacher, args.alpha)
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
