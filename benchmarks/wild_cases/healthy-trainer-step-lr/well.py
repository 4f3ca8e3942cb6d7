"""A KD trainer as found in many repositories: config, StepLR by epoch, best weights by validation."""
import argparse
import copy
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split


@dataclass
class Config:
    temperature: float = 4.0
    alpha: float = 0.7
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    epochs: int = 18
    batch_size: int = 64
    step_size: int = 6
    gamma: float = 0.3


class KDLoss(nn.Module):
    def __init__(self, temperature, alpha):
        super().__init__()
        self.T = temperature
        self.alpha = alpha
        self.kl = nn.KLDivLoss(reduction="batchmean")
        self.ce = nn.CrossEntropyLoss()

    def forward(self, student_logits, teacher_logits, labels):
        soft = self.kl(F.log_softmax(student_logits / self.T, dim=1), F.softmax(teacher_logits / self.T, dim=1))
        return self.alpha * self.T**2 * soft + (1 - self.alpha) * self.ce(student_logits, labels)


class FCNet(nn.Module):
    def __init__(self, hidden, dropout=0.0):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(64, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 10))

    def forward(self, x):
        return self.net(x)


class Trainer:
    def __init__(self, cfg, student, teacher=None):
        self.cfg, self.student, self.teacher = cfg, student, teacher
        self.criterion = KDLoss(cfg.temperature, cfg.alpha) if teacher is not None else nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(
            student.parameters(), lr=cfg.lr, momentum=cfg.momentum, weight_decay=cfg.weight_decay)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, cfg.step_size, cfg.gamma)
        if teacher is not None:
            teacher.eval()
            for p in teacher.parameters():
                p.requires_grad_(False)

    def _loss(self, x, y):
        out = self.student(x)
        if self.teacher is None:
            return self.criterion(out, y)
        with torch.no_grad():
            t_out = self.teacher(x)
        return self.criterion(out, t_out, y)

    def fit(self, train_loader, val_loader):
        best_acc, best = 0.0, copy.deepcopy(self.student.state_dict())
        for _ in range(self.cfg.epochs):
            self.student.train()
            for x, y in train_loader:
                self.optimizer.zero_grad()
                loss = self._loss(x, y)
                loss.backward()
                self.optimizer.step()
            self.scheduler.step()
            acc = self.evaluate(val_loader)
            if acc > best_acc:
                best_acc, best = acc, copy.deepcopy(self.student.state_dict())
        self.student.load_state_dict(best)
        return self.student

    def evaluate(self, loader):
        self.student.eval()
        good = count = 0
        with torch.no_grad():
            for x, y in loader:
                good += (self.student(x).argmax(dim=1) == y).sum().item()
                count += y.size(0)
        return 100.0 * good / count


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    digits = load_digits()
    full = TensorDataset(torch.tensor(digits.data / 16.0, dtype=torch.float32), torch.tensor(digits.target))
    train, val, test = random_split(full, [1200, 200, 397], generator=torch.Generator().manual_seed(42))
    cfg = Config()
    train_loader = DataLoader(train, batch_size=cfg.batch_size, shuffle=True)
    val_loader = DataLoader(val, batch_size=200)
    test_loader = DataLoader(test, batch_size=397)

    trainer = Trainer(cfg, FCNet(256, dropout=0.2))
    teacher = trainer.fit(train_loader, val_loader)
    print(f"teacher {trainer.evaluate(test_loader):.2f}")
    trainer = Trainer(cfg, FCNet(14), teacher)
    trainer.fit(train_loader, val_loader)
    print(f"top1 {trainer.evaluate(test_loader):.2f}")


if __name__ == "__main__":
    main()
