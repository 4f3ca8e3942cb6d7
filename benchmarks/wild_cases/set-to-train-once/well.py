"""A small runner with events; everything but the step hangs on them."""
import argparse
from collections import defaultdict

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Runner:
    def __init__(self, step):
        self.step, self.handlers, self.epoch, self.history = step, defaultdict(list), 0, []

    def on(self, event):
        def register(fn):
            self.handlers[event].append(fn)
            return fn
        return register

    def fire(self, event):
        for fn in self.handlers[event]:
            fn(self)

    def run(self, batches, epochs):
        self.fire("started")
        for self.epoch in range(epochs):
            self.fire("epoch_started")
            for batch in batches():
                self.last = self.step(*batch)
            self.fire("epoch_completed")
        self.fire("completed")


def block(i, o, drop):
    return nn.Sequential(nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU(), nn.Dropout(drop))


def net(width, drop=0.2):
    return nn.Sequential(block(64, width, drop), block(width, width, drop), nn.Linear(width, 10))


def kd(student_logits, teacher_logits, labels, T=4.0, a=0.5):
    p, log_q = torch.softmax(teacher_logits / T, 1), torch.log_softmax(student_logits / T, 1)
    return a * T * T * (p * (p.clamp_min(1e-9).log() - log_q)).sum(1).mean() + (1 - a) * F.cross_entropy(student_logits, labels)


def attach(runner, student, test):
    @runner.on("epoch_started")
    def learning(r):
        student.train()

    @runner.on("epoch_completed")
    def validate(r):
        student.eval()
        with torch.no_grad():
            r.history.append((student(test[0]).argmax(1) == test[1]).float().mean().item() * 100)
        if r.epoch % 10 == 0:
            print(f"[{r.epoch}] loss {r.last:.3f} top1 {r.history[-1]:.2f}")


def make_step(student, teacher, lr=5e-3):
    optimizer = torch.optim.Adam(student.parameters(), lr=lr)

    def step(x, y):
        with torch.no_grad():
            t = teacher(x)
        loss = kd(student(x), t, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()
    return step


def batches_of(x, y, size):
    def batches():
        return ((x[b], y[b]) for b in torch.randperm(len(x)).split(size))
    return batches


def fit_teacher(x, y):
    model = net(128, 0.3)
    opt = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(15):
        for xb, yb in batches_of(x, y, 50)():
            opt.zero_grad()
            F.cross_entropy(model(xb), yb).backward()
            opt.step()
    return model.eval().requires_grad_(False)


def data():
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(804))
    return (x[p[:1000]], y[p[:1000]]), (x[p[1000:]], y[p[1000:]])


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    train, test = data()
    teacher = fit_teacher(*train)
    print(f"teacher {(teacher(test[0]).argmax(1) == test[1]).float().mean().item() * 100:.2f}")
    few = torch.randperm(1000)[:200]
    student = net(24)
    runner = Runner(make_step(student, teacher))
    attach(runner, student, test)
    runner.run(batches_of(train[0][few], train[1][few], 20), epochs=40)
    print(f"top1 {runner.history[-1]:.2f}")


if __name__ == "__main__":
    main()
