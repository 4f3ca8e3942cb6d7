"""Multi-label: what is true of the digit (even, prime, ...)? Distilled attribute by attribute."""
import argparse
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


@dataclass
class Config:
    seed: int = 0
    temperature: float = 2.0
    alpha: float = 0.8
    epochs: int = 30
    batch: int = 50


ATTRIBUTES = {"even": "02468", "above four": "56789", "prime": "2357", "has a loop": "0689", "threefold": "0369"}


def described(x, y):
    table = np.array([[str(d) in members for members in ATTRIBUTES.values()] for d in range(10)], np.float32)
    return TensorDataset(torch.tensor(x / 16, dtype=torch.float32), torch.from_numpy(table[y]))


def mlp(width):
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, len(ATTRIBUTES)))


class MultiLabelDistiller:
    def __init__(self, teacher, student, cfg):
        self.teacher, self.student, self.cfg = teacher, student, cfg
        self.opt = torch.optim.AdamW(student.parameters(), lr=3e-3)
        self.teacher.eval()

    def loss(self, student_logits, teacher_logits, labels):
        T = self.cfg.temperature
        hard = F.binary_cross_entropy_with_logits(student_logits, labels)
        target = torch.sigmoid(teacher_logits / T)
        soft = F.binary_cross_entropy_with_logits(torch.sigmoid(student_logits / T), target) * T * T
        return (1 - self.cfg.alpha) * hard + self.cfg.alpha * soft

    def epoch(self, loader):
        self.student.train()
        for x, y in loader:
            with torch.no_grad():
                t = self.teacher(x)
            loss = self.loss(self.student(x), t, y)
            self.opt.zero_grad()
            loss.backward()
            self.opt.step()


@torch.no_grad()
def set_accuracy(net, data):
    """A picture counts where all its attributes are right."""
    net.eval()
    x, y = data.tensors
    return 100 * ((net(x) > 0) == (y > 0)).all(1).float().mean().item()


def fit_teacher(net, data):
    opt = torch.optim.AdamW(net.parameters(), lr=2e-3)
    loader = DataLoader(data, 50, shuffle=True)
    net.train()
    for _ in range(30):
        for x, y in loader:
            opt.zero_grad()
            F.binary_cross_entropy_with_logits(net(x), y).backward()
            opt.step()
    return net


def main(cfg):
    torch.set_num_threads(1)
    torch.manual_seed(cfg.seed)
    x, y = load_digits(return_X_y=True)
    p = np.random.default_rng(5).permutation(len(x))
    train, test = described(x[p[:1100]], y[p[:1100]]), described(x[p[1100:]], y[p[1100:]])
    teacher = fit_teacher(mlp(192), train)
    print(f"teacher {set_accuracy(teacher, test):.2f}")
    student = mlp(32)
    distiller = MultiLabelDistiller(teacher, student, cfg)
    loader = DataLoader(train, cfg.batch, shuffle=True)
    for _ in range(cfg.epochs):
        distiller.epoch(loader)
    print(f"top1 {set_accuracy(student, test):.2f}")


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    main(Config(**vars(ap.parse_args())))
