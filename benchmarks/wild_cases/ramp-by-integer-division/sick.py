"""KD weight is warmed up over the first epochs."""
import argparse
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


@dataclass
class Config:
    seed: int = 0
    epochs: int = 20
    warmup_epochs: int = 20
    kd_weight: float = 6.0
    temperature: float = 3.0
    lr: float = 4e-3


class Schedule:
    """Rises from 0 to `top` over `steps` calls of step()."""

    def __init__(self, top, steps):
        self.top, self.steps, self.n = top, steps, 0

    @property
    def value(self):
        return self.top * min(1, self.n // self.steps)

    def step(self):
        self.n += 1


class Trainer:
    def __init__(self, cfg, student, teacher, loader):
        self.cfg, self.student, self.teacher, self.loader = cfg, student, teacher, loader
        self.opt = torch.optim.Adam(student.parameters(), lr=cfg.lr)
        self.kd_weight = Schedule(cfg.kd_weight, cfg.warmup_epochs)

    def losses(self, x, y):
        s, T = self.student(x), self.cfg.temperature
        with torch.no_grad():
            t = self.teacher(x)
        known = y >= 0
        ce = F.cross_entropy(s[known], y[known]) if known.any() else s.sum() * 0
        kl = F.kl_div(F.log_softmax(s / T, -1), F.log_softmax(t / T, -1), reduction="batchmean", log_target=True)
        return ce, kl * T**2

    def train(self):
        for _ in range(self.cfg.epochs):
            self.student.train()
            for x, y in self.loader:
                ce, kl = self.losses(x, y)
                loss = ce + self.kd_weight.value * kl
                self.opt.zero_grad()
                loss.backward()
                self.opt.step()
            self.kd_weight.step()


def mlp(h):
    return nn.Sequential(nn.Linear(64, h), nn.ReLU(), nn.Linear(h, 10))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    cfg = Config(seed=ap.parse_args().seed)
    torch.set_num_threads(1)
    torch.manual_seed(cfg.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(91))
    x, y = x[p], y[p]
    top1 = lambda m: 100 * (m(x[1200:]).argmax(1) == y[1200:]).float().mean().item()
    teacher = mlp(128)
    opt = torch.optim.Adam(teacher.parameters(), lr=4e-3)
    for _ in range(250):
        b = torch.randint(1200, (64,))
        opt.zero_grad()
        F.cross_entropy(teacher(x[b]), y[b]).backward()
        opt.step()
    teacher.eval().requires_grad_(False)
    print(f"teacher {top1(teacher):.2f}")
    partly = y[:1200].clone()
    partly[50:] = -1
    student = mlp(16)
    Trainer(cfg, student, teacher, DataLoader(TensorDataset(x[:1200], partly), 60, shuffle=True)).train()
    print(f"top1 {top1(student):.2f}")


if __name__ == "__main__":
    main()
