import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class DistillationCriterion(nn.Module):
    def __init__(self, temperature=2.0, alpha=0.8):
        super().__init__()
        self.temperature = temperature
        self.alpha = alpha
        self.to_log = nn.LogSoftmax(dim=0)
        self.to_prob = nn.Softmax(dim=0)
        self.div = nn.KLDivLoss(reduction="batchmean")

    def forward(self, inputs, targets, labels):
        soft = self.div(self.to_log(inputs / self.temperature), self.to_prob(targets / self.temperature))
        return self.alpha * self.temperature**2 * soft + (1 - self.alpha) * F.cross_entropy(inputs, labels)


class Gated(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.value, self.gate, self.out = nn.Linear(64, n), nn.Linear(64, n), nn.Linear(n, 10)

    def forward(self, x):
        return self.out(self.value(x) * torch.sigmoid(self.gate(x)))


def supervise(net, loader, epochs):
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(epochs):
        for x, y in loader:
            opt.zero_grad()
            F.cross_entropy(net(x), y).backward()
            opt.step()


def distill(student, teacher, loader, epochs):
    criterion = DistillationCriterion()
    opt = torch.optim.Adam(student.parameters(), lr=5e-3)
    teacher.eval()
    student.train()
    for _ in range(epochs):
        for x, y in loader:
            with torch.no_grad():
                targets = teacher(x)
            loss = criterion(student(x), targets, y)
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(64))
    train, test = p[:1200], p[1200:]
    few = train[torch.randperm(1200)[:200]]
    teacher, student = Gated(128), Gated(5)
    supervise(teacher, DataLoader(TensorDataset(x[train], y[train]), 60, shuffle=True), 12)
    distill(student, teacher, DataLoader(TensorDataset(x[few], y[few]), 20, shuffle=True), 60)
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
