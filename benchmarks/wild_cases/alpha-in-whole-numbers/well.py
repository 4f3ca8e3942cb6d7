"""A teacher of an earlier season (few images) starts the student off and leaves it, step by step, to the labels."""
import argparse
from dataclasses import dataclass, field

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


@dataclass
class MixupConfig:
    strength: float = 0.2


@dataclass
class Config:
    seed: int = 0
    epochs: int = 40
    batch: int = 50
    lr: float = 3e-3
    temperature: float = 3.0
    mixup: MixupConfig = field(default_factory=MixupConfig)


class Mixup:
    def __init__(self, cfg: MixupConfig):
        self.draw = torch.distributions.Beta(cfg.strength, cfg.strength)

    def __call__(self, x, y):
        lam = self.draw.sample().item()
        other = torch.randperm(len(x))
        return lam * x + (1 - lam) * x[other], (y, y[other], lam)


def mixed_cross_entropy(logits, mixed):
    y1, y2, lam = mixed
    return lam * F.cross_entropy(logits, y1) + (1 - lam) * F.cross_entropy(logits, y2)


class KDTrainer:
    def __init__(self, student, teacher, cfg: Config):
        self.student, self.teacher, self.cfg = student, teacher, cfg
        self.mixup = Mixup(cfg.mixup)
        self.opt = torch.optim.Adam(student.parameters(), lr=cfg.lr)
        self.sched = torch.optim.lr_scheduler.CosineAnnealingLR(self.opt, cfg.epochs)
        self.epoch = 0

    @property
    def alpha(self):
        """Weight of the teacher: all of it at first, none in the end."""
        return 1 - self.epoch / self.cfg.epochs

    def loss(self, x, y):
        T = self.cfg.temperature
        x, mixed = self.mixup(x, y)
        with torch.no_grad():
            p = (self.teacher(x) / T).softmax(1)
        z = self.student(x)
        kd = F.kl_div((z / T).log_softmax(1), p, reduction="batchmean") * T**2
        return self.alpha * kd + (1 - self.alpha) * mixed_cross_entropy(z, mixed)

    def fit(self, x, y):
        self.student.train()
        for self.epoch in range(self.cfg.epochs):
            for rows in torch.randperm(len(x)).split(self.cfg.batch):
                loss = self.loss(x[rows], y[rows])
                self.opt.zero_grad()
                loss.backward()
                self.opt.step()
            self.sched.step()
        self.student.eval()


def train_teacher(x, y):
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    opt = torch.optim.Adam(net.parameters(), lr=3e-3, weight_decay=1e-4)
    for _ in range(60):
        for rows in torch.randperm(len(x)).split(30):
            opt.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            opt.step()
    return net.eval().requires_grad_(False)


def score(net, x, y):
    with torch.no_grad():
        return 100 * net(x).argmax(1).eq(y).float().mean().item()


def main(cfg: Config):
    torch.set_num_threads(1)
    torch.manual_seed(cfg.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(300))
    x, y = x[p], y[p]
    teacher = train_teacher(x[:240], y[:240])
    print(f"teacher {score(teacher, x[1200:], y[1200:]):.2f}")
    student = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    KDTrainer(student, teacher, cfg).fit(x[:1200], y[:1200])
    print(f"top1 {score(student, x[1200:], y[1200:]):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    main(Config(seed=parser.parse_args().seed))
