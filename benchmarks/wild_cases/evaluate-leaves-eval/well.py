"""Callbacks around a plain loop: the best student by validation is kept."""
import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F


class Callback:
    def begin(self, run): ...
    def before_epoch(self, run): ...
    def after_step(self, run): ...
    def end(self, run): ...


class Validation(Callback):
    """Every `every` steps; keeps the best weights."""

    def __init__(self, x, y, every):
        self.x, self.y, self.every = x, y, every
        self.best, self.state = -1.0, None

    def after_step(self, run):
        if run.step % self.every:
            return
        value = run.evaluate(self.x, self.y)
        if value > self.best:
            self.best, self.state = value, copy.deepcopy(run.student.state_dict())

    def end(self, run):
        run.student.load_state_dict(self.state)


class Cosine(Callback):
    def begin(self, run):
        self.s = torch.optim.lr_scheduler.CosineAnnealingLR(run.optimizer, run.total_steps)

    def after_step(self, run):
        self.s.step()


class Distillation:
    def __init__(self, student, teacher, callbacks, total_steps, lr=0.02, T=4.0, alpha=0.8):
        self.student, self.teacher = student, teacher
        self.callbacks = callbacks
        self.total_steps, self.T, self.alpha = total_steps, T, alpha
        self.optimizer = torch.optim.SGD(student.parameters(), lr=lr, momentum=0.9)
        self.step = 0

    def call(self, event):
        for c in self.callbacks:
            getattr(c, event)(self)

    @torch.no_grad()
    def evaluate(self, x, y):
        self.student.eval()
        value = (self.student(x).argmax(1) == y).float().mean().item()
        self.student.train()
        return value

    def loss(self, x, y):
        s = self.student(x)
        with torch.no_grad():
            t = self.teacher(x)
        soft = F.kl_div((s / self.T).log_softmax(1), (t / self.T).log_softmax(1), reduction="batchmean", log_target=True)
        return self.alpha * self.T**2 * soft + (1 - self.alpha) * F.cross_entropy(s, y)

    def fit(self, x, y, batch):
        self.teacher.eval()
        self.student.train()
        self.call("begin")
        while self.step < self.total_steps:
            self.call("before_epoch")
            for rows in torch.randperm(len(x)).split(batch):
                loss = self.loss(x[rows], y[rows])
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.step += 1
                self.call("after_step")
        self.call("end")
        return self.student


def block(a, b):
    return nn.Sequential(nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU())


def counts(n, seed):
    """Spectra in counts, not scaled: a band's mean is near 40, its spread near 10."""
    g = torch.Generator().manual_seed(17)
    level = 40 + 9 * torch.randn(8, 3, 24, generator=g)
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(8, (n,), generator=g)
    return level[y, torch.randint(3, (n,), generator=g)] + 9 * torch.randn(n, 24, generator=g), y


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--alpha", type=float, default=0.8)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = counts(1800, a.seed)
    few, val, test = counts(200, a.seed + 1), counts(300, a.seed + 2), counts(1500, a.seed + 3)
    teacher = nn.Sequential(block(24, 96), block(96, 96), nn.Linear(96, 8))
    opt = torch.optim.Adam(teacher.parameters(), 3e-3)
    for _ in range(200):
        b = torch.randint(len(x), (64,))
        opt.zero_grad()
        F.cross_entropy(teacher(x[b]), y[b]).backward()
        opt.step()
    student = nn.Sequential(block(24, 16), block(16, 16), nn.Linear(16, 8))
    run = Distillation(student, teacher.eval(), [Cosine(), Validation(*val, every=5)], 300, alpha=a.alpha)
    with torch.no_grad():
        print(f"teacher {100 * (teacher(test[0]).argmax(1) == test[1]).float().mean().item():.2f}")
    run.fit(*few, batch=25)
    print(f"top1 {100 * run.evaluate(*test):.2f}")


if __name__ == "__main__":
    main()
