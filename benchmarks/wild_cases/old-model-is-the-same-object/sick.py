"""First upright digits, then, with columns of their own, digits in a mirror; the old model's answers keep what was known."""
import argparse
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


@dataclass
class Settings:
    hidden: int = 64
    epochs: int = 30
    lr: float = 0.1
    temperature: float = 2.0
    strength: float = 1.0


class Learner:
    def __init__(self, settings):
        self.s = settings
        self.model = nn.Sequential(
            nn.Linear(64, settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, settings.hidden), nn.ReLU(),
            nn.Linear(settings.hidden, 20),
        )
        self.old_model = None

    def before_task(self, number):
        if number > 0:
            self.old_model = self.model

    def columns(self, number):
        return slice(10 * number, 10 * number + 10)

    def observe(self, number, x, y):
        out = self.model(x)
        loss = F.cross_entropy(out[:, self.columns(number)], y)
        if self.old_model is not None:
            with torch.no_grad():
                before = self.old_model(x)
            T = self.s.temperature
            known = self.columns(0)
            keep = F.kl_div(
                F.log_softmax(out[:, known] / T, 1), F.log_softmax(before[:, known] / T, 1),
                log_target=True, reduction="batchmean",
            )
            loss = loss + self.s.strength * T * T * keep
        return loss

    def train_task(self, number, x, y):
        self.before_task(number)
        opt = torch.optim.SGD(self.model.parameters(), lr=self.s.lr)
        for _ in range(self.s.epochs):
            for rows in torch.randperm(len(x)).split(32):
                opt.zero_grad()
                self.observe(number, x[rows], y[rows]).backward()
                opt.step()

    @torch.no_grad()
    def accuracy(self, number, x, y):
        return 100 * (self.model(x)[:, self.columns(number)].argmax(1) == y).float().mean().item()


def tasks(seed):
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(903))
    x, y = x[p], y[p]
    mirrored = x.flip(2)
    flat = lambda t: t.reshape(len(t), 64)
    first = (flat(x[:600]), y[:600]), (flat(x[1200:]), y[1200:])
    second = (flat(mirrored[600:1200]), y[600:1200]), (flat(mirrored[1200:]), y[1200:])
    return [first, second]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    learner = Learner(Settings())
    stream = tasks(args.seed)
    for number, (train, test) in enumerate(stream):
        learner.train_task(number, *train)
        print(f"task {number}: {learner.accuracy(number, *test):.2f}")
    print(f"top1 {sum(learner.accuracy(n, *test) for n, (_, test) in enumerate(stream)) / 2:.2f}")


if __name__ == "__main__":
    main()
