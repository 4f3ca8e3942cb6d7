"""FitNet-like: a hint from the middle of the teacher, taken by forward hooks; labels for few images only."""
import argparse
from contextlib import contextmanager

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def convnet(c):
    net = nn.Sequential()
    net.add_module("stem", nn.Conv2d(1, c, 3, padding=1))
    net.add_module("relu1", nn.ReLU())
    net.add_module("pool1", nn.MaxPool2d(2))
    net.add_module("middle", nn.Conv2d(c, 2 * c, 3, padding=1))
    net.add_module("relu2", nn.ReLU())
    net.add_module("pool2", nn.MaxPool2d(2))
    net.add_module("flat", nn.Flatten())
    net.add_module("fc", nn.Linear(8 * c, 10))
    return net


class Tap:
    """Keeps what a layer put out last."""

    def __init__(self, module):
        self.value = None
        self.handle = module.register_forward_hook(self.keep)

    def keep(self, module, inputs, output):
        self.value = output

    def remove(self):
        self.handle.remove()


@contextmanager
def tapped(*modules):
    taps = [Tap(m) for m in modules]
    try:
        yield taps
    finally:
        for tap in taps:
            tap.remove()


class HintLoss(nn.Module):
    def __init__(self, student_channels, teacher_channels):
        super().__init__()
        self.regressor = nn.Conv2d(student_channels, teacher_channels, 1)

    def forward(self, student_map, teacher_map):
        return F.mse_loss(self.regressor(student_map), teacher_map)


def distil(student, teacher, hint, x, y, labelled, epochs, lr, beta):
    teacher.eval()
    student.train()
    opt = torch.optim.Adam([*student.parameters(), *hint.parameters()], lr=lr)
    with tapped(student.pool2, teacher.pool2) as (mine, theirs):
        for _ in range(epochs):
            for b in torch.randperm(len(x)).split(50):
                with torch.no_grad():
                    teacher(x[b])
                z = student(x[b])
                loss = beta * hint(mine.value, theirs.value)
                known = labelled[b]
                if known.any():
                    loss = loss + F.cross_entropy(z[known], y[b][known])
                opt.zero_grad()
                loss.backward()
                opt.step()


def accuracy(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--beta", type=float, default=1.0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    d = load_digits()
    x, y = torch.tensor(d.images[:, None] / 16).float(), torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(733))
    x, y = x[p], y[p]
    labelled = torch.zeros(1000, dtype=torch.bool)
    labelled[torch.randperm(1000)[:120]] = True

    teacher = convnet(16)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(12):
        for b in torch.randperm(1000).split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.requires_grad_(False)
    print(f"teacher {accuracy(teacher, x[1000:], y[1000:]):.2f}")
    student, hint = convnet(6), HintLoss(12, 32)
    distil(student, teacher, hint, x[:1000], y[:1000], labelled, epochs=30, lr=5e-3, beta=a.beta)
    print(f"top1 {accuracy(student, x[1000:], y[1000:]):.2f}")


if __name__ == "__main__":
    main()
