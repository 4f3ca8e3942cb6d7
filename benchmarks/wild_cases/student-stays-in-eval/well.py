"""Callback style: fit(), with a validation after each epoch and the best weights kept."""
import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class StudentNet(nn.Module):
    def __init__(self, hidden=128, dropout=0.5):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(64, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 10),
        )

    def forward(self, x):
        return self.net(x)


class BestKeeper:
    def __init__(self):
        self.best, self.state = -1.0, None

    def __call__(self, model, value):
        if value > self.best:
            self.best, self.state = value, copy.deepcopy(model.state_dict())


class Distiller:
    def __init__(self, teacher, student, T=2.0, alpha=0.5, callbacks=()):
        self.teacher, self.student = teacher.eval(), student
        self.T, self.alpha, self.callbacks = T, alpha, callbacks
        self.optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)

    def loss(self, s, t, y):
        kd = F.kl_div(F.log_softmax(s / self.T, 1), F.softmax(t / self.T, 1), reduction="batchmean")
        return self.alpha * self.T**2 * kd + (1 - self.alpha) * F.cross_entropy(s, y)

    def train_batch(self, x, y):
        with torch.no_grad():
            t = self.teacher(x)
        loss = self.loss(self.student(x), t, y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def validate(self, x, y):
        self.student.eval()
        return (self.student(x).argmax(1) == y).float().mean().item()

    def fit(self, train, valid, epochs, batch_size=20):
        x, y = train
        for epoch in range(epochs):
            self.student.train()
            for idx in torch.randperm(len(x)).split(batch_size):
                self.train_batch(x[idx], y[idx])
            value = self.validate(*valid)
            for cb in self.callbacks:
                cb(self.student, value)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(61))
    tr, va, te = p[:800], p[800:1000], p[1000:]
    teacher = nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 10))
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(15):
        for i in tr.split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[i] + 0.1 * torch.randn(len(i), 64)), y[i]).backward()
            opt.step()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[te]).argmax(1) == y[te]).float().mean().item():.2f}")
    keeper = BestKeeper()
    student = StudentNet()
    few = tr[:100]
    Distiller(teacher, student, callbacks=[keeper]).fit((x[few], y[few]), (x[va], y[va]), epochs=30)
    student.load_state_dict(keeper.state)
    student.eval()
    with torch.no_grad():
        print(f"top1 {100 * (student(x[te]).argmax(1) == y[te]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
