"""Hints from a middle layer, caught by forward hooks. Both nets have a neck of the same size."""
import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

NECK = 24


def make_net(width, depth):
    net = nn.Sequential()
    size = 64
    for i in range(depth):
        net.add_module(f"fc{i}", nn.Linear(size, width))
        net.add_module(f"act{i}", nn.ReLU())
        size = width
    net.add_module("neck", nn.Linear(size, NECK))
    net.add_module("neck_act", nn.ReLU())
    net.add_module("top", nn.Linear(NECK, 10))
    return net


class Tap:
    """Keeps what the named layers of a net put out."""

    features = {}

    def __init__(self, net, layers):
        self.handles = [getattr(net, name).register_forward_hook(self.keep(name)) for name in layers]

    def keep(self, name):
        def hook(module, inputs, output):
            self.features[name] = output

        return hook

    def close(self):
        for handle in self.handles:
            handle.remove()


def train_with_hints(teacher, student, x, y, steps=900, beta=2.0):
    teacher.eval()
    of_teacher, of_student = Tap(teacher, ["neck"]), Tap(student, ["neck"])
    opt = torch.optim.Adam(student.parameters(), lr=3e-3)
    student.train()
    for _ in range(steps):
        rows = torch.randint(0, len(x), (32,))
        with torch.no_grad():
            teacher(x[rows])
        logits = student(x[rows])
        hint = F.mse_loss(of_student.features["neck"], of_teacher.features["neck"])
        loss = F.cross_entropy(logits, y[rows]) + beta * hint
        opt.zero_grad()
        loss.backward()
        opt.step()
    of_teacher.close()
    of_student.close()
    return student.eval()


def pretrain(net, x, y, steps=500):
    opt = torch.optim.Adam(net.parameters(), lr=2e-3, weight_decay=1e-4)
    for _ in range(steps):
        rows = torch.randint(0, len(x), (64,))
        opt.zero_grad()
        F.cross_entropy(net(x[rows]), y[rows]).backward()
        opt.step()
    return net


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    bunch = load_digits()
    order = np.random.RandomState(3).permutation(len(bunch.target))
    x = torch.from_numpy(bunch.data[order] / 16).float()
    y = torch.from_numpy(bunch.target[order])
    teacher = pretrain(make_net(128, 2), x[:1200], y[:1200])
    student = train_with_hints(teacher, make_net(12, 1), x[:160], y[:160])
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[1200:]).argmax(1) == y[1200:]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[1200:]).argmax(1) == y[1200:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
