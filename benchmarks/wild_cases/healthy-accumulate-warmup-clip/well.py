"""Small batches, gradients summed over four of them, clipped, learning rate warmed up by optimizer steps."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


def parse():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--accum", type=int, default=4)
    p.add_argument("--epochs", type=int, default=20)
    p.add_argument("--warmup", type=int, default=30)
    p.add_argument("--lr", type=float, default=0.1)
    p.add_argument("--max-norm", type=float, default=5.0)
    p.add_argument("--temp", type=float, default=2.0)
    p.add_argument("--kd-weight", type=float, default=0.5)
    return p.parse_args()


def network(width, layers):
    mods, d = [], 64
    for _ in range(layers):
        mods += [nn.Linear(d, width), nn.LayerNorm(width), nn.GELU()]
        d = width
    return nn.Sequential(*mods, nn.Linear(d, 10))


def kd_term(s, t, temp):
    return F.kl_div((s / temp).log_softmax(-1), (t / temp).softmax(-1), reduction="batchmean") * temp**2


def train_teacher(model, x, y):
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(10):
        for b in torch.randperm(len(x)).split(64):
            opt.zero_grad()
            F.cross_entropy(model(x[b]), y[b]).backward()
            opt.step()
    return model.eval().requires_grad_(False)


def main():
    a = parse()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    X, Y = load_digits(return_X_y=True)
    X, Y = torch.tensor(X).float() / 16, torch.tensor(Y)
    r = torch.randperm(len(X), generator=torch.Generator().manual_seed(64))
    xtr, ytr, xte, yte = X[r[:1280]], Y[r[:1280]], X[r[1280:]], Y[r[1280:]]
    teacher = train_teacher(network(192, 2), xtr, ytr)

    student = network(14, 1)
    loader = DataLoader(TensorDataset(xtr, ytr), batch_size=a.batch_size, shuffle=True)
    assert len(loader) % a.accum == 0
    optimizer = torch.optim.SGD(student.parameters(), lr=a.lr, momentum=0.9)
    total = a.epochs * len(loader) // a.accum

    def factor(k):
        return (k + 1) / a.warmup if k < a.warmup else (total - k) / (total - a.warmup)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for epoch in range(a.epochs):
        student.train()
        optimizer.zero_grad()
        for n, (x, y) in enumerate(loader, 1):
            with torch.no_grad():
                t = teacher(x)
            s = student(x)
            loss = (1 - a.kd_weight) * F.cross_entropy(s, y) + a.kd_weight * kd_term(s, t, a.temp)
            (loss / a.accum).backward()
            if n % a.accum == 0:
                nn.utils.clip_grad_norm_(student.parameters(), a.max_norm)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()

    student.eval()
    with torch.no_grad():
        print(f"teacher {(teacher(xte).argmax(1) == yte).float().mean().item() * 100:.2f}")
        print(f"top1 {(student(xte).argmax(1) == yte).float().mean().item() * 100:.2f}")


if __name__ == "__main__":
    main()
