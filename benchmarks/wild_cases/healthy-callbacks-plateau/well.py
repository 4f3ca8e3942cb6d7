"""A trainer with callbacks: ReduceLROnPlateau on validation accuracy (mode="max"), early stopping, best weights put back. The run ends before its epochs do, on purpose."""
import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Callback:
    def on_epoch_end(self, trainer, metric):
        pass


class Plateau(Callback):
    def __init__(self, opt, **kw):
        self.sched = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, mode="max", **kw)

    def on_epoch_end(self, trainer, metric):
        self.sched.step(metric)


class Best(Callback):
    def __init__(self, patience):
        self.patience, self.value, self.weights, self.wait = patience, -1.0, None, 0

    def on_epoch_end(self, trainer, metric):
        if metric > self.value:
            self.value, self.wait = metric, 0
            self.weights = copy.deepcopy(trainer.model.state_dict())
        else:
            self.wait += 1
            trainer.stop = self.wait >= self.patience


class Trainer:
    def __init__(self, model, opt, loss, callbacks=()):
        self.model, self.opt, self.loss, self.callbacks, self.stop = model, opt, loss, callbacks, False

    def fit(self, train, val, epochs, size=50):
        x, y = train
        for self.epoch in range(epochs):
            self.model.train()
            for b in torch.randperm(len(x)).split(size):
                self.opt.zero_grad()
                self.loss(self.model, x[b], y[b]).backward()
                nn.utils.clip_grad_value_(self.model.parameters(), 1.0)
                self.opt.step()
            metric = self.evaluate(val)
            for c in self.callbacks:
                c.on_epoch_end(self, metric)
            if self.stop:
                break
        return self

    def evaluate(self, data):
        self.model.eval()
        with torch.no_grad():
            return (self.model(data[0]).argmax(1) == data[1]).double().mean().item() * 100


def ce(model, x, y):
    return F.cross_entropy(model(x), y)


def distilling(teacher, tau=4.0, alpha=0.8):
    def loss(model, x, y):
        with torch.no_grad():
            q = F.softmax(teacher(x) / tau, 1)
        z = model(x)
        kl = F.kl_div(F.log_softmax(z / tau, 1), q, reduction="none").sum(1).mean()
        return alpha * tau ** 2 * kl + (1 - alpha) * F.cross_entropy(z, y)
    return loss


def make(h):
    return nn.Sequential(nn.Linear(64, h), nn.BatchNorm1d(h), nn.ReLU(), nn.Linear(h, 10))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, xt, y, yt = train_test_split(x / 16, y, test_size=0.25, stratify=y, random_state=1)
    x, xv, y, yv = train_test_split(x, y, test_size=0.15, stratify=y, random_state=2)
    data = [(torch.tensor(i).float(), torch.tensor(j)) for i, j in ((x, y), (xv, yv), (xt, yt))]
    train, val, test = data

    teacher = make(256)
    boss = Trainer(teacher, torch.optim.Adam(teacher.parameters(), 2e-3), ce).fit(train, val, 15)
    print(f"teacher {boss.evaluate(test):.2f}")
    student = make(20)
    opt = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    best = Best(patience=9)
    job = Trainer(student, opt, distilling(teacher), [Plateau(opt, factor=0.3, patience=3), best]).fit(train, val, 60)
    print(f"stopped after epoch {job.epoch + 1}, lr {opt.param_groups[0]['lr']:.4g}, best val {best.value:.2f}")
    student.load_state_dict(best.weights)
    print(f"top1 {job.evaluate(test):.2f}")


if __name__ == "__main__":
    main()
