"""The teacher comes with its own preprocessing (a fitted StandardScaler); the student lives on pixels in [0, 1]."""
import argparse
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler


@dataclass
class Config:
    seed: int = 0
    temperature: float = 2.0
    kd: float = 0.7
    lr: float = 4e-3
    batch_size: int = 32
    epochs: int = 20
    hidden: tuple = (24,)
    teacher_hidden: tuple = (128, 128)
    betas: tuple = field(default=(0.9, 0.99))


def make_mlp(hidden):
    dims = (64, *hidden)
    layers = [m for a, b in zip(dims, dims[1:]) for m in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(dims[-1], 10))


class Bundle:
    """What the teacher's team hands over: a network and the scaler it was trained with."""

    def __init__(self, net, scaler):
        self.net, self.scaler = net, scaler

    def preprocess(self, raw):
        return torch.as_tensor(self.scaler.transform(raw), dtype=torch.float32)


def fit_bundle(raw, y, cfg):
    scaler = StandardScaler().fit(raw)
    x = torch.as_tensor(scaler.transform(raw), dtype=torch.float32)
    net = make_mlp(cfg.teacher_hidden)
    opt = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(10):
        for b in torch.randperm(len(x)).split(64):
            opt.zero_grad()
            F.cross_entropy(net(x[b]), y[b]).backward()
            opt.step()
    net.eval().requires_grad_(False)
    return Bundle(net, scaler)


def student_preprocess(raw):
    return torch.as_tensor(raw / 16.0, dtype=torch.float32)


class Distiller:
    def __init__(self, bundle, cfg):
        self.bundle, self.cfg = bundle, cfg
        self.student = make_mlp(cfg.hidden)
        self.opt = torch.optim.RAdam(self.student.parameters(), lr=cfg.lr, betas=cfg.betas)

    def step(self, raw, y):
        T = self.cfg.temperature
        x = student_preprocess(raw)
        with torch.no_grad():
            targets = F.softmax(self.bundle.net(self.bundle.preprocess(raw)) / T, dim=-1)
        logits = self.student(x)
        kd = F.kl_div(F.log_softmax(logits / T, dim=-1), targets, reduction="batchmean").mul(T * T)
        loss = torch.lerp(F.cross_entropy(logits, y), kd, self.cfg.kd)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        return loss.item()

    def fit(self, raw, y):
        for _ in range(self.cfg.epochs):
            self.student.train()
            for b in torch.randperm(len(y)).split(self.cfg.batch_size):
                self.step(raw[b.numpy()], y[b])
        return self.student


def score(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x).argmax(-1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=Config.seed)
    ap.add_argument("--kd", type=float, default=Config.kd)
    cfg = Config(**vars(ap.parse_args()))
    torch.set_num_threads(1)
    torch.manual_seed(cfg.seed)
    raw, y = load_digits(return_X_y=True)
    raw, raw_test, y, y_test = train_test_split(raw, torch.tensor(y), test_size=600, random_state=12)
    few = np.random.RandomState(cfg.seed).permutation(len(raw))[:300]
    bundle = fit_bundle(raw, y, cfg)
    print(f"teacher {score(bundle.net, bundle.preprocess(raw_test), y_test):.2f}")
    student = Distiller(bundle, cfg).fit(raw[few], y[few])
    print(f"top1 {score(student, student_preprocess(raw_test), y_test):.2f}")


if __name__ == "__main__":
    main()
