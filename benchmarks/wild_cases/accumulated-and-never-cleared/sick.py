"""Relational KD (distances between the rows of a batch) with gradient accumulation over four micro-batches."""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

ACCUM = 4


class Embedder(nn.Module):
    def __init__(self, hidden, dim):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.classifier = nn.Linear(dim, 10)

    def forward(self, x):
        emb = self.encoder(x)
        return emb, self.classifier(F.relu(emb))


def pdist(e, eps=1e-12):
    sq = e.pow(2).sum(1)
    d = (sq[:, None] + sq[None, :] - 2 * e @ e.t()).clamp(min=eps).sqrt()
    return d * (1 - torch.eye(len(e)))


class RKDDistance(nn.Module):
    def forward(self, student, teacher):
        with torch.no_grad():
            td = pdist(teacher)
            td = td / td[td > 0].mean()
        sd = pdist(student)
        sd = sd / sd[sd > 0].mean()
        return F.smooth_l1_loss(sd, td)


def train_teacher(loader, epochs=12):
    teacher = Embedder(192, 48)
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    teacher.train()
    for _ in range(epochs):
        for x, y in loader:
            opt.zero_grad()
            F.cross_entropy(teacher(x)[1], y).backward()
            opt.step()
    teacher.eval()
    return teacher.requires_grad_(False)


def train_student(student, teacher, loader, epochs, rkd_weight):
    rkd = RKDDistance()
    optimizer = torch.optim.Adam(student.parameters(), lr=5e-3)
    for epoch in range(epochs):
        student.train()
        optimizer.zero_grad()
        for step, (x, y) in enumerate(loader):
            emb, logits = student(x)
            with torch.no_grad():
                teacher_emb, _ = teacher(x)
            loss = F.cross_entropy(logits, y) + rkd_weight * rkd(emb, teacher_emb)
            (loss / ACCUM).backward()
            if (step + 1) % ACCUM == 0:
                optimizer.step()


def accuracy(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x)[1].argmax(1) == y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rkd-weight", type=float, default=5.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    train, test = order[:1000], order[1000:]
    loader = DataLoader(TensorDataset(x[train], y[train]), batch_size=25, shuffle=True)   # 40 micro-batches
    teacher = train_teacher(loader)
    print(f"teacher {accuracy(teacher, x[test], y[test]):.2f}")
    student = Embedder(16, 12)
    train_student(student, teacher, loader, epochs=25, rkd_weight=args.rkd_weight)
    print(f"top1 {accuracy(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
