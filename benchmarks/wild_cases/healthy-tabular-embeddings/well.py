#!/usr/bin/env python
"""Tabular data: embeddings of categories, numbers standardised inside each model, classes weighted, and a flag for everything."""
import argparse

import numpy as np
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

CARDINALITIES = (7, 5, 12)
NUMERIC = 8


def get_args(argv=None):
    p = argparse.ArgumentParser(description="distil a tabular network")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--n-rows", type=int, default=4000)
    p.add_argument("--batch-size", type=int, default=128)
    p.add_argument("--teacher-hidden", type=int, default=128)
    p.add_argument("--student-hidden", type=int, default=24)
    p.add_argument("--teacher-dropout", type=float, default=0.1)
    p.add_argument("--student-dropout", type=float, default=0.05)
    p.add_argument("--embedding-dim", type=int, default=4)
    p.add_argument("--teacher-epochs", type=int, default=14)
    p.add_argument("--epochs", type=int, default=16)
    p.add_argument("--teacher-lr", type=float, default=2e-3)
    p.add_argument("--lr", type=float, default=5e-3)
    p.add_argument("--weight-decay", type=float, default=1e-4)
    p.add_argument("--temperature", "-T", type=float, default=2.5)
    p.add_argument("--alpha", type=float, default=0.5, help="share of the distillation term")
    p.add_argument("--clip", type=float, default=5.0)
    p.add_argument("--log-every", type=int, default=4)
    p.add_argument("--no-class-weights", dest="class_weights", action="store_false")
    return p.parse_args(argv)


def make_table(n, seed=123):
    rng = np.random.RandomState(seed)
    cats = np.stack([rng.randint(c, size=n) for c in CARDINALITIES], 1)
    nums = rng.randn(n, NUMERIC) * np.array([1, 5, 0.2, 30, 2, 1, 10, 0.5]) + np.array([0, 2, 1, 100, 0, -3, 7, 0])
    z = (nums - nums.mean(0)) / nums.std(0)
    effects = [rng.randn(c) for c in CARDINALITIES]
    score = 1.2 * z[:, 0] + z[:, 1] * z[:, 2] + 0.8 * np.abs(z[:, 3]) + sum(e[cats[:, i]] for i, e in enumerate(effects))
    score = score + 0.2 * rng.randn(n)
    edges = np.quantile(score, [0.55, 0.85])
    return cats, nums.astype(np.float32), np.digitize(score, edges)


class TabularDataset(Dataset):
    def __init__(self, cats, nums, target):
        self.cats = torch.as_tensor(cats, dtype=torch.long)
        self.nums = torch.as_tensor(nums, dtype=torch.float32)
        self.target = torch.as_tensor(target, dtype=torch.long)

    def __len__(self):
        return len(self.target)

    def __getitem__(self, i):
        return self.cats[i], self.nums[i], self.target[i]


class TabularNet(nn.Module):
    def __init__(self, mean, std, hidden, depth, dropout, emb_dim, num_classes=3):
        super().__init__()
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())
        self.embeddings = nn.ModuleList([nn.Embedding(c, emb_dim) for c in CARDINALITIES])
        width, layers = emb_dim * len(CARDINALITIES) + NUMERIC, []
        for _ in range(depth):
            layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout)]
            width = hidden
        self.mlp = nn.Sequential(*layers, nn.Linear(width, num_classes))

    def forward(self, cats, nums):
        nums = (nums - self.mean) / self.std
        embedded = [e(cats[:, i]) for i, e in enumerate(self.embeddings)]
        return self.mlp(torch.cat(embedded + [nums], dim=1))


class WeightedKDLoss(nn.Module):
    def __init__(self, temperature=2.5, alpha=0.5, weight=None):
        super().__init__()
        self.temperature, self.alpha = temperature, alpha
        self.ce = nn.CrossEntropyLoss(weight=weight)
        self.kl = nn.KLDivLoss(reduction="batchmean")

    def forward(self, student_logits, teacher_logits, labels):
        t = self.temperature
        soft = self.kl(F.log_softmax(student_logits / t, dim=1), F.softmax(teacher_logits / t, dim=1)) * t * t
        return self.alpha * soft + (1.0 - self.alpha) * self.ce(student_logits, labels)


def fit_teacher(model, loader, args, weight):
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.teacher_lr, weight_decay=args.weight_decay)
    for _ in range(args.teacher_epochs):
        model.train()
        for cats, nums, target in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(cats, nums), target, weight=weight).backward()
            optimizer.step()


def fit_student(student, teacher, loader, criterion, args, test_loader):
    optimizer = torch.optim.AdamW(student.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=max(1, args.epochs // 2), gamma=0.3)
    teacher.eval()
    for epoch in range(1, args.epochs + 1):
        student.train()
        running = 0.0
        for cats, nums, target in loader:
            with torch.no_grad():
                teacher_logits = teacher(cats, nums)
            loss = criterion(student(cats, nums), teacher_logits, target)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), args.clip)
            optimizer.step()
            running += loss.item()
        scheduler.step()
        if epoch % args.log_every == 0:
            print(f"epoch {epoch:3d} loss {running / len(loader):.4f} "
                  f"student {accuracy(student, test_loader):.2f} teacher {accuracy(teacher, test_loader):.2f}")


def accuracy(model, loader):
    model.eval()
    right = total = 0
    with torch.no_grad():
        for cats, nums, target in loader:
            right += (model(cats, nums).argmax(1) == target).sum().item()
            total += len(target)
    return 100.0 * right / total


def main():
    args = get_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    cats, nums, target = make_table(args.n_rows)
    cut = int(0.75 * args.n_rows)
    train_set = TabularDataset(cats[:cut], nums[:cut], target[:cut])
    test_set = TabularDataset(cats[cut:], nums[cut:], target[cut:])
    loader = DataLoader(train_set, args.batch_size, shuffle=True)
    test_loader = DataLoader(test_set, 500)

    mean, std = train_set.nums.mean(0), train_set.nums.std(0)
    weight = None
    if args.class_weights:
        counts = torch.bincount(train_set.target, minlength=3).float()
        weight = (counts.sum() / (3 * counts)).sqrt()

    teacher = TabularNet(mean, std, args.teacher_hidden, 3, args.teacher_dropout, args.embedding_dim)
    fit_teacher(teacher, loader, args, weight)
    student = TabularNet(mean, std, args.student_hidden, 2, args.student_dropout, args.embedding_dim)
    criterion = WeightedKDLoss(args.temperature, args.alpha, weight)
    fit_student(student, teacher, loader, criterion, args, test_loader)
    print(f"top1 {accuracy(student, test_loader):.2f}")


if __name__ == "__main__":
    main()
