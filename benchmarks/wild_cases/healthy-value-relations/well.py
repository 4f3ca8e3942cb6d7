"""MiniLM-like: KL of the last layer's attention maps and of the value relations (no projector needed), beside the labels."""
import argparse
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class SelfAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.d = heads, dim // heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, self.heads, self.d).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.d)
        y = scores.softmax(-1) @ v
        return self.o(y.transpose(1, 2).reshape(b, n, -1)), scores, v


class Encoder(nn.Module):
    def __init__(self, dim, depth, heads=4):
        super().__init__()
        self.patch = nn.Linear(4, dim)
        self.pos = nn.Parameter(torch.randn(1, 16, dim) * 0.02)
        self.att = nn.ModuleList(SelfAttention(dim, heads) for _ in range(depth))
        self.mlp = nn.ModuleList(nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim * 2), nn.GELU(), nn.Linear(dim * 2, dim))
                                 for _ in range(depth))
        self.ln = nn.ModuleList(nn.LayerNorm(dim) for _ in range(depth))
        self.head = nn.Linear(dim, 10)

    def forward(self, patches):
        h = self.patch(patches) + self.pos
        for ln, att, mlp in zip(self.ln, self.att, self.mlp):
            a, scores, values = att(ln(h))
            h = h + a
            h = h + mlp(h)
        return self.head(h.mean(1)), scores, values


def relation_kl(student_scores, teacher_scores):
    """KL(teacher || student) over the last axis, averaged over batch, heads and queries."""
    return F.kl_div(F.log_softmax(student_scores, -1), F.softmax(teacher_scores, -1), reduction="none").sum(-1).mean()


def value_relation(v):
    return v @ v.transpose(-1, -2) / math.sqrt(v.size(-1))


def minilm_loss(student_out, teacher_out):
    _, s_scores, s_values = student_out
    _, t_scores, t_values = teacher_out
    return relation_kl(s_scores, t_scores) + relation_kl(value_relation(s_values), value_relation(t_values))


def run_epoch(model, x, y, optimizer, scheduler, teacher=None, weight=1.0, batch=64):
    model.train()
    total = 0.0
    for rows in torch.randperm(len(x)).split(batch):
        out = model(x[rows])
        loss = F.cross_entropy(out[0], y[rows])
        if teacher is not None:
            with torch.no_grad():
                wanted = teacher(x[rows])
            loss = loss + weight * minilm_loss(out, wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scheduler.step()
        total += loss.item() * len(rows)
    return total / len(x)


def fit(model, x, y, epochs, lr, teacher=None):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    steps = epochs * math.ceil(len(x) / 64)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    for epoch in range(epochs):
        loss = run_epoch(model, x, y, optimizer, scheduler, teacher)
        print(f"[{epoch + 1}/{epochs}] loss={loss:.4f}")
    return model.eval()


def top1(model, x, y):
    model.eval()
    with torch.no_grad():
        return 100 * (model(x)[0].argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    d = load_digits()
    images = torch.tensor(d.images, dtype=torch.float32) / 8 - 1
    x = images.unfold(1, 2, 2).unfold(2, 2, 2).reshape(len(images), 16, 4)
    y = torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(19))
    train, test = p[:1300], p[1300:]

    teacher = fit(Encoder(dim=48, depth=2), x[train], y[train], epochs=10, lr=3e-3)
    teacher.requires_grad_(False)
    print(f"teacher {top1(teacher, x[test], y[test]):.2f}")
    student = fit(Encoder(dim=24, depth=1), x[train], y[train], epochs=13, lr=6e-3, teacher=teacher)
    print(f"top1 {top1(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
