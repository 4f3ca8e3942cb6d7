"""Hints between hidden layers, taken with forward hooks; few of the images have labels."""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F


def mlp(*widths):
    layers = []
    for a, b in zip(widths, widths[1:]):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Tap:
    """Remembers what a layer last put out."""

    def __init__(self, layer):
        self.value = None
        layer.register_forward_hook(self)

    def __call__(self, layer, args, out):
        self.value = out


class HintTrainer:
    def __init__(self, student, teacher, hint_weight=3.0, lr=3e-3):
        self.student, self.teacher = student, teacher.eval().requires_grad_(False)
        self.s_tap, self.t_tap = Tap(student[2]), Tap(teacher[2])
        self.regressor = nn.Linear(student[2].out_features, teacher[2].out_features)
        self.hint_weight = hint_weight
        self.optimizer = torch.optim.Adam([*student.parameters(), *self.regressor.parameters()], lr=lr)

    def label_term(self, x, y):
        known = y >= 0
        return F.cross_entropy(self.student(x)[known], y[known]) if known.any() else x.new_zeros(())

    def hint_term(self, x):
        self.s_tap.value = self.t_tap.value = None
        with torch.no_grad():
            self.teacher(x)
        self.student(x)
        return F.mse_loss(self.regressor(self.s_tap.value), self.t_tap.value)

    def step(self, x, y):
        self.student.train()
        loss = self.label_term(x, y) + self.hint_weight * self.hint_term(x)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def fit(self, x, y, epochs, batch_size=50):
        for epoch in range(epochs):
            total = sum(self.step(x[rows], y[rows]) for rows in torch.randperm(len(x)).split(batch_size))
            print(f"epoch {epoch} loss {total:.3f}")


def accuracy(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x).argmax(1) == y).double().mean().item()


def digits():
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(17))
    x, y = torch.tensor(x, dtype=torch.float)[order] / 16, torch.tensor(y)[order]
    return x[:1100], y[:1100], x[1100:], y[1100:]


def pretrain(net, x, y, epochs=15):
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y, x_test, y_test = digits()
    teacher = pretrain(mlp(64, 128, 64, 10), x, y)
    print(f"teacher {accuracy(teacher, x_test, y_test):.2f}")
    partly = torch.full_like(y, -1)
    partly[:120] = y[:120]
    student = mlp(64, 24, 24, 10)
    HintTrainer(student, teacher).fit(x, partly, epochs=40)
    print(f"top1 {accuracy(student, x_test, y_test):.2f}")
