"""Offline distillation: one pass of the teacher fills a bank of logits, indexed by sample; then the student trains on it."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset


class IndexedDigits(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return i, self.x[i], self.y[i]


class LogitBank:
    def __init__(self, n, classes=10):
        self.values = torch.zeros(n, classes)

    def put(self, idx, logits):
        self.values[idx] = logits

    def get(self, idx):
        return self.values[idx]

    @classmethod
    @torch.no_grad()
    def from_teacher(cls, teacher, dataset):
        teacher.eval()
        bank = cls(len(dataset))
        for idx, x, _ in DataLoader(dataset, batch_size=100):
            bank.put(idx, teacher(x))
        return bank


class LeNet(nn.Sequential):
    def __init__(self, c, hidden):
        super().__init__(
            nn.Conv2d(1, c, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(c, 2 * c, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(8 * c, hidden), nn.ReLU(), nn.Linear(hidden, 10),
        )


def soft_cross_entropy(logits, bank_logits, T):
    return -(F.softmax(bank_logits / T, 1) * F.log_softmax(logits / T, 1)).sum(1).mean() * T * T


def fit(net, dataset, epochs, lr, bank=None, lam=0.0, T=2.0):
    opt = torch.optim.Adam(net.parameters(), lr=lr)
    loader = DataLoader(dataset, batch_size=32, shuffle=True)
    net.train()
    for _ in range(epochs):
        for idx, x, y in loader:
            out = net(x)
            loss = (1 - lam) * F.cross_entropy(out, y)
            if bank is not None:
                loss = loss + lam * soft_cross_entropy(out, bank.get(idx), T)
            opt.zero_grad(set_to_none=True)
            loss.backward()
            opt.step()
    return net


def top1(net, ds):
    net.eval()
    with torch.no_grad():
        return 100 * (net(ds.x).argmax(1) == ds.y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--lam", type=float, default=0.8)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    x, y = torch.tensor(d.images[:, None] / 16, dtype=torch.float32), torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(13))
    few = p[:1200][torch.randperm(1200, generator=torch.Generator().manual_seed(args.seed))[:320]]
    pool, small, test = (IndexedDigits(x[i], y[i]) for i in (p[:1200], few, p[1200:]))
    teacher = fit(LeNet(20, 96), pool, epochs=6, lr=2e-3)
    print(f"teacher {top1(teacher, test):.2f}")
    bank = LogitBank.from_teacher(teacher, small)
    student = fit(LeNet(8, 32), small, epochs=20, lr=6e-3, bank=bank, lam=args.lam)
    print(f"top1 {top1(student, test):.2f}")


if __name__ == "__main__":
    main()
