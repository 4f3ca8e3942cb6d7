"""Hints: hooks tap a middle layer of both nets, a 1x1 convolution brings the student's map to the teacher's width."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Tap:
    """Holds what a layer gave out last."""

    def __init__(self, layer):
        self.value = None
        layer.register_forward_hook(self.keep)

    def keep(self, module, inputs, output):
        self.value = output


def small_cnn(width):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(8 * width, 10),
    )


HINT_LAYER = 6  # the second ReLU


class HintTraining:
    def __init__(self, teacher, student, t_channels, s_channels, beta, lr):
        self.teacher, self.student, self.beta = teacher, student, beta
        self.t_tap, self.s_tap = Tap(teacher[HINT_LAYER]), Tap(student[HINT_LAYER])
        self.regressor = nn.Conv2d(s_channels, t_channels, 1)
        weights = list(student.parameters()) + list(self.regressor.parameters())
        self.optimizer = torch.optim.Adam(weights, lr=lr)

    def losses(self, x, y, has_label):
        with torch.no_grad():
            self.teacher(x)
        logits = self.student(x)
        hint = F.mse_loss(self.regressor(self.s_tap.value), self.t_tap.value)
        ce = F.cross_entropy(logits[has_label], y[has_label], reduction="sum") / has_label.sum().clamp(min=1)
        return ce, hint

    def epoch(self, x, y, has_label, batch_size=50):
        self.teacher.eval()
        self.student.train()
        for idx in torch.randperm(len(x)).split(batch_size):
            ce, hint = self.losses(x[idx], y[idx], has_label[idx])
            loss = ce + self.beta * hint
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


def train_plain(net, x, y, epochs):
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    net.train()
    for _ in range(epochs):
        for idx in torch.randperm(len(x)).split(50):
            loss = F.cross_entropy(net(x[idx]), y[idx])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def score(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x).argmax(1) == y).float().mean().item()


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--beta", type=float, default=20.0)
    parser.add_argument("--epochs", type=int, default=12)
    return parser.parse_args()


def main():
    args = parse()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(64))
    x, y = x[p], y[p]
    n = 1100
    has_label = torch.zeros(n, dtype=torch.bool)
    has_label[torch.randperm(n)[:110]] = True

    teacher = small_cnn(16)
    train_plain(teacher, x[:n], y[:n], 8)
    print(f"teacher {score(teacher, x[n:], y[n:]):.2f}")
    student = small_cnn(4)
    training = HintTraining(teacher, student, 32, 8, args.beta, lr=5e-3)
    for _ in range(args.epochs):
        training.epoch(x[:n], y[:n], has_label)
    print(f"top1 {score(student, x[n:], y[n:]):.2f}")


if __name__ == "__main__":
    main()
