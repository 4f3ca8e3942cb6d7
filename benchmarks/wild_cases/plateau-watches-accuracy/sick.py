"""KD with callbacks: after each epoch the held-out accuracy is measured and the plateau scheduler is told."""
import argparse

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Callback:
    def on_epoch_end(self, trainer, logs):
        pass


class Plateau(Callback):
    def __init__(self, optimizer, monitor, **kw):
        self.monitor = monitor
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **kw)

    def on_epoch_end(self, trainer, logs):
        self.scheduler.step(logs[self.monitor])


class History(Callback):
    def __init__(self):
        self.rows = []

    def on_epoch_end(self, trainer, logs):
        self.rows.append(dict(logs, lr=trainer.optimizer.param_groups[0]["lr"]))


class Trainer:
    def __init__(self, student, teacher, optimizer, callbacks=()):
        self.student, self.teacher, self.optimizer, self.callbacks = student, teacher, optimizer, list(callbacks)

    def step(self, x, y):
        out = self.student(x)
        loss = F.cross_entropy(out, y)
        if self.teacher is not None:
            with torch.inference_mode():
                t = self.teacher(x)
            p = torch.softmax(t.clone() / 4, dim=1)
            kl = (p * (p.clamp_min(1e-12).log() - torch.log_softmax(out / 4, dim=1))).sum(1).mean()
            loss = 0.25 * loss + 0.75 * 16 * kl
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def fit(self, train, valid, epochs, batch=40):
        for _ in range(epochs):
            self.student.train()
            if self.teacher is not None:
                self.teacher.eval()
            order = np.random.permutation(len(train[0]))
            losses = [self.step(train[0][i], train[1][i]) for i in np.array_split(order, len(order) // batch)]
            logs = {"loss": float(np.mean(losses)), "accuracy": accuracy(self.student, *valid)}
            for c in self.callbacks:
                c.on_epoch_end(self, logs)


@torch.no_grad()
def accuracy(net, x, y):
    net.eval()
    return 100 * (net(x).argmax(1) == y).float().mean().item()


def cnn(c):
    return nn.Sequential(nn.Conv2d(1, c, 3), nn.ReLU(), nn.Conv2d(c, 2 * c, 3), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Flatten(), nn.Linear(8 * c, 10))


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    seed = cli.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    np.random.seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(y)
    p = np.random.RandomState(31).permutation(len(x))
    part = lambda a, b: (x[p[a:b]], y[p[a:b]])
    train, valid, test = part(0, 1000), part(1000, 1200), part(1200, None)

    teacher = cnn(24)
    Trainer(teacher, None, torch.optim.Adam(teacher.parameters(), 2e-3)).fit(train, valid, 10)
    print("teacher", accuracy(teacher, *test))

    student = cnn(3)
    sgd = torch.optim.SGD(student.parameters(), lr=0.02, momentum=0.9)
    history = History()
    watch = Plateau(sgd, "accuracy", factor=0.3, patience=3)
    Trainer(student, teacher, sgd, [watch, history]).fit(train, valid, 24)
    print("last lr", history.rows[-1]["lr"])
    print("top1 %.2f" % accuracy(student, *test))


if __name__ == "__main__":
    main()
