"""Distillation with a learning rate that falls by a tenth each epoch."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.optim.lr_scheduler import ExponentialLR


class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.seq = nn.Sequential(nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 10))

    def forward(self, x):
        return self.seq(x)


class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.seq = nn.Sequential(nn.Linear(64, 100), nn.Tanh(), nn.Dropout(0.2), nn.Linear(100, 10))

    def forward(self, x):
        return self.seq(x)


class KnowledgeDistillation:
    def __init__(self, teacher, student, lr=0.05, gamma=0.9, T=2.0, lambda_=0.7):
        self.teacher, self.student = teacher, student
        self.T, self.lambda_ = T, lambda_
        self.optimizer = torch.optim.SGD(student.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
        self.scheduler = ExponentialLR(self.optimizer, gamma=gamma)

    def criterion(self, s, t, y):
        soft = F.kl_div(F.log_softmax(s / self.T, 1), F.softmax(t / self.T, 1), reduction="batchmean")
        return self.lambda_ * self.T**2 * soft + (1 - self.lambda_) * F.cross_entropy(s, y)

    def run_epoch(self, x, y, batch_size=25):
        self.teacher.eval()
        self.student.train()
        total = 0.0
        for i in torch.randperm(len(x)).split(batch_size):
            with torch.no_grad():
                t = self.teacher(x[i])
            loss = self.criterion(self.student(x[i]), t, y[i])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            total += loss.item() * len(i)
        return total / len(x)

    def train(self, x, y, epochs):
        for epoch in range(epochs):
            mean = self.run_epoch(x, y)
            if epoch % 8 == 0:
                print(f"[{epoch:3d}] loss {mean:.4f}")


@torch.no_grad()
def accuracy(net, x, y):
    net.eval()
    return 100 * (net(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(29))
    x, y = x[p], y[p]
    teacher = Teacher()
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(15):
        for i in torch.randperm(1000).split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[i]), y[i]).backward()
            opt.step()
    print(f"teacher {accuracy(teacher, x[1000:], y[1000:]):.2f}")
    kd = KnowledgeDistillation(teacher, Student())
    kd.train(x[:500], y[:500], 24)
    print(f"top1 {accuracy(kd.student, x[1000:], y[1000:]):.2f}")


if __name__ == "__main__":
    main()
