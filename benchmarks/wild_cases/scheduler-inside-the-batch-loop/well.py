#!/usr/bin/env python
"""Patch transformer taught by a wider one. Step decay: a tenth after epochs 12 and 24."""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax


class PatchFormer(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.embed = nn.Linear(8, dim)
        self.place = nn.Parameter(torch.randn(1, 8, dim) * 0.1)
        self.layer = nn.TransformerEncoderLayer(dim, heads, 2 * dim, dropout=0.0, batch_first=True)
        self.head = nn.Linear(dim, 10)

    def forward(self, x):
        return self.head(self.layer(self.embed(x) + self.place).mean(1))


def soft_loss(z, t, T):
    lq, lp = log_softmax(z / T, -1), log_softmax(t / T, -1)
    return T * T * (lp.exp() * (lp - lq)).sum(-1).mean()


def train_one_epoch(model, data, optimizer, scheduler, args, teacher=None):
    model.train()
    x, y = data
    for index in torch.randperm(len(x)).split(args.batch_size):
        z = model(x[index])
        loss = cross_entropy(z, y[index])
        if teacher is not None:
            with torch.no_grad():
                t = teacher(x[index])
            loss = (1 - args.alpha) * loss + args.alpha * soft_loss(z, t, args.T)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scheduler.step()


@torch.no_grad()
def evaluate(model, data):
    model.eval()
    return 100 * (model(data[0]).argmax(-1) == data[1]).float().mean().item()


def get_parser():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", default=0, type=int)
    p.add_argument("--epochs", default=30, type=int)
    p.add_argument("--batch-size", default=25, type=int)
    p.add_argument("--lr", default=0.008, type=float)
    p.add_argument("--step-size", default=12, type=int)
    p.add_argument("--alpha", default=0.8, type=float)
    p.add_argument("--T", default=3.0, type=float)
    return p


def main(args):
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(908))
    full, test = (x[p[:1100]], y[p[:1100]]), (x[p[1100:]], y[p[1100:]])
    few = p[:1100][torch.randperm(1100)[:400]]

    teacher = PatchFormer(48, 4)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    for _ in range(10):
        train_one_epoch(teacher, full, optimizer, constant, args)
    print(f"teacher {evaluate(teacher, test):.2f}")
    for q in teacher.parameters():
        q.requires_grad = False

    student = PatchFormer(16, 2)
    optimizer = torch.optim.Adam(student.parameters(), lr=args.lr)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, args.step_size, gamma=0.1)
    for _ in range(args.epochs):
        train_one_epoch(student, (x[few], y[few]), optimizer, scheduler, args, teacher)
    print(f"top1 {evaluate(student, test):.2f}")


if __name__ == "__main__":
    main(get_parser().parse_args())
