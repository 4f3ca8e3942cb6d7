"""Waves: each digit's 64 values are read as a signal in time; a wide 1-d network and a narrow one."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


def conv_bn(i, o, k, stride=1):
    return nn.Sequential(nn.Conv1d(i, o, k, stride, k // 2, bias=False), nn.BatchNorm1d(o), nn.ReLU(inplace=True))


class WaveNet1d(nn.Module):
    def __init__(self, width, dropout=0.0):
        super().__init__()
        self.features = nn.Sequential(
            conv_bn(1, width, 9), conv_bn(width, width, 5, 2), conv_bn(width, 2 * width, 5, 2), nn.Dropout(dropout)
        )
        self.pool = nn.AdaptiveAvgPool1d(8)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(16 * width, 10))

    def forward(self, x):
        return self.classifier(self.pool(self.features(x)))


class Trainer:
    def __init__(self, model, loader, lr, epochs):
        self.model, self.loader, self.epochs = model, loader, epochs
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)

    def criterion(self, x, y):
        return F.cross_entropy(self.model(x), y)

    def before_fit(self):
        self.model.train()

    def fit(self):
        self.before_fit()
        for self.epoch in range(self.epochs):
            for x, y in self.loader:
                self.optimizer.zero_grad()
                self.criterion(x, y).backward()
                self.optimizer.step()
        return self


class DistillTrainer(Trainer):
    def __init__(self, model, teacher, loader, lr, epochs, alpha=0.9, T=4.0):
        super().__init__(model, loader, lr, epochs)
        self.teacher, self.alpha, self.T = teacher, alpha, T
        for parameter in self.teacher.parameters():
            parameter.requires_grad_(False)

    def before_fit(self):
        self.teacher.eval()
        super().before_fit()

    def criterion(self, x, y):
        out = self.model(x)
        with torch.no_grad():
            soft = F.softmax(self.teacher(x) / self.T, dim=1)
        kd = F.kl_div(F.log_softmax(out / self.T, dim=1), soft, reduction="batchmean") * self.T**2
        return self.alpha * kd + (1.0 - self.alpha) * F.cross_entropy(out, y)


@torch.no_grad()
def test(model, loader):
    model.eval()
    return 100 * sum((model(x).argmax(1) == y).sum().item() for x, y in loader) / len(loader.dataset)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--alpha", type=float, default=0.9)
    a = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 8 - 1, dtype=torch.float32).unsqueeze(1), torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(404))
    train, held = order[:1100], order[1100:]
    few = train[torch.randperm(1100)[:200]]

    def loader(rows, batch, shuffle=True):
        return DataLoader(TensorDataset(x[rows], y[rows]), batch_size=batch, shuffle=shuffle)

    teacher = WaveNet1d(20, dropout=0.3)
    Trainer(teacher, loader(train, 50), 3e-3, 7).fit()
    student = WaveNet1d(4)
    DistillTrainer(student, teacher, loader(few, 20), 5e-3, 25, a.alpha).fit()
    print(f"teacher {test(teacher, loader(held, 200, False)):.2f}")
    print(f"top1 {test(student, loader(held, 200, False)):.2f}")


if __name__ == "__main__":
    main()
