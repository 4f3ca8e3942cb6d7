"""Accumulation over four small batches, autocast on the CPU, a scaler that is off there."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Accumulator:
    def __init__(self, teacher, student, lr=0.2, every=4, max_norm=1.0):
        self.teacher, self.student = teacher.eval(), student
        self.every, self.max_norm = every, max_norm
        self.optimizer = torch.optim.SGD(student.parameters(), lr=lr, momentum=0.9)
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)

    def losses(self, x, y, T=3.0, alpha=0.7):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            s = self.student(x)
            with torch.no_grad():
                t = self.teacher(x)
        s, t = s.float(), t.float()
        kd = F.kl_div(F.log_softmax(s / T, 1), F.softmax(t / T, 1), reduction="batchmean") * T**2
        return (1 - alpha) * F.cross_entropy(s, y), alpha * kd

    def clip(self):
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.student.parameters(), self.max_norm)

    def epoch(self, loader):
        self.student.train()
        self.optimizer.zero_grad()
        for i, (x, y) in enumerate(loader, start=1):
            hard, soft = self.losses(x, y)
            last = i % self.every == 0
            self.scaler.scale(hard / self.every).backward(retain_graph=True)
            self.scaler.scale(soft / self.every).backward()
            if last:
                self.clip()
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.optimizer.zero_grad()


def block(i, o):
    return nn.Sequential(nn.Linear(i, o), nn.LayerNorm(o), nn.ReLU())


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(29))
    train, test = p[:1200], p[1200:]
    few = train[torch.randperm(1200)[:256]]
    teacher = nn.Sequential(block(64, 96), block(96, 96), nn.Linear(96, 10))
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(10):
        for b in train[torch.randperm(1200)].split(60):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    student = nn.Sequential(block(64, 10), nn.Linear(10, 10))
    acc = Accumulator(teacher, student)
    loader = DataLoader(TensorDataset(x[few], y[few]), batch_size=8, shuffle=True, drop_last=True)
    for _ in range(25):
        acc.epoch(loader)
    student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
