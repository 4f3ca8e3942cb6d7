"""Half precision with a GradScaler (CPU here, the GPU run differs in DEVICE alone)."""
import argparse
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedShuffleSplit

DEVICE = "cpu"
AMP_DTYPE = torch.float16


@dataclass
class Config:
    seed: int = 0
    epochs: int = 40
    batch: int = 32
    lr: float = 0.1
    max_norm: float = 2.0
    T: float = 4.0
    kd: float = 0.7
    few: int = 160


def make(width):
    return nn.Sequential(nn.Linear(64, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, 10)).to(DEVICE)


class AmpDistiller:
    def __init__(self, cfg, teacher, student):
        self.cfg, self.teacher, self.student = cfg, teacher, student
        self.optimizer = torch.optim.SGD(student.parameters(), lr=cfg.lr, momentum=0.9)
        self.scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**12)

    def loss(self, s, t, y):
        T = self.cfg.T
        s, t = s.float(), t.float()
        soft = F.kl_div((s / T).log_softmax(1), (t / T).softmax(1), reduction="batchmean") * T**2
        return self.cfg.kd * soft + (1 - self.cfg.kd) * F.cross_entropy(s, y)

    def step(self, x, y):
        with torch.autocast(DEVICE, dtype=AMP_DTYPE):
            with torch.no_grad():
                t = self.teacher(x)
            s = self.student(x)
        loss = self.loss(s, t, y)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), self.cfg.max_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item()

    def fit(self, x, y):
        self.teacher.eval()
        for _ in range(self.cfg.epochs):
            self.student.train()
            for idx in torch.randperm(len(x)).split(self.cfg.batch):
                self.step(x[idx], y[idx])


def pretrain(net, x, y):
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(15):
        for idx in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            F.cross_entropy(net(x[idx]), y[idx]).backward()
            opt.step()
    return net


def top1(net, x, y):
    net.eval()
    with torch.inference_mode():
        return 100 * (net(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    cfg = Config(seed=ap.parse_args().seed)
    torch.set_num_threads(1)
    torch.manual_seed(cfg.seed)
    X, Y = load_digits(return_X_y=True)
    tr, te = next(StratifiedShuffleSplit(1, test_size=700, random_state=31).split(X, Y))
    X, Y = torch.tensor(X / 16, dtype=torch.float32, device=DEVICE), torch.tensor(Y, device=DEVICE)
    teacher = pretrain(make(160), X[tr], Y[tr])
    print(f"teacher {top1(teacher, X[te], Y[te]):.2f}")
    few = torch.as_tensor(tr)[torch.randperm(len(tr))[: cfg.few]]
    student = make(10)
    AmpDistiller(cfg, teacher, student).fit(X[few], Y[few])
    print(f"top1 {top1(student, X[te], Y[te]):.2f}")


if __name__ == "__main__":
    main()
