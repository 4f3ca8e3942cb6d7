"""Quantisation-aware distillation: a 4-bit student, trained from scratch, with a float teacher."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


def fake_quant(w, bits=4):
    """Symmetric, one scale per tensor; the gradient goes straight through."""
    levels = 2 ** (bits - 1) - 1
    scale = w.detach().abs().max().clamp_min(1e-8) / levels
    rounded = (w / scale).round().clamp(-levels, levels) * scale
    return w + (rounded - w).detach()


class QuantLinear(nn.Linear):
    def forward(self, x):
        return F.linear(x, fake_quant(self.weight), self.bias)


def make_teacher():
    return nn.Sequential(
        nn.Linear(64, 128), nn.LayerNorm(128), nn.GELU(), nn.Dropout(0.1),
        nn.Linear(128, 128), nn.LayerNorm(128), nn.GELU(), nn.Dropout(0.1), nn.Linear(128, 10),
    )


def make_student():
    return nn.Sequential(QuantLinear(64, 24), nn.LayerNorm(24), nn.GELU(), QuantLinear(24, 10))


def make_optimizer(model, lr, weight_decay=0.01):
    no_decay = [p for p in model.parameters() if p.ndim < 2]
    decay = [p for p in model.parameters() if p.ndim >= 2]
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": no_decay, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=1e-6)


def train_teacher(x, y, epochs=10):
    teacher = make_teacher()
    opt = torch.optim.AdamW(teacher.parameters(), lr=2e-3)
    teacher.train()
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(50):
            loss = F.cross_entropy(teacher(x[b]), y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    return teacher.eval().requires_grad_(False)


def distill(student, teacher, loader, epochs, lr, alpha, T=2.0):
    optimizer = make_optimizer(student, lr)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=epochs * len(loader))
    student.train()
    for _ in range(epochs):
        for x, y in loader:
            with torch.no_grad():
                t = teacher(x)
            s = student(x)
            kd = F.kl_div(F.log_softmax(s / T, -1), F.softmax(t / T, -1), reduction="batchmean") * T**2
            loss = alpha * kd + (1 - alpha) * F.cross_entropy(s, y)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 5.0)
            optimizer.step()
            scheduler.step()
    return student.eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alpha", type=float, default=0.8)
    parser.add_argument("--lr", type=float, default=5e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(58))
    rows, test = p[:1100], p[1100:]
    teacher = train_teacher(x[rows], y[rows])
    few = rows[torch.randperm(len(rows))[:200]]
    loader = DataLoader(TensorDataset(x[few], y[few]), batch_size=25, shuffle=True)
    student = distill(make_student(), teacher, loader, 30, args.lr, args.alpha)
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
