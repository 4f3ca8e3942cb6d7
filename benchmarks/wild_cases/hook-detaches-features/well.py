"""Hints by forward hooks: the student's middle features are brought to the teacher's width and compared."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


def make_cnn(c):
    m = nn.Sequential()
    m.add_module("conv1", nn.Conv2d(1, c, 3, padding=1))
    m.add_module("act1", nn.ReLU())
    m.add_module("pool1", nn.MaxPool2d(2))
    m.add_module("conv2", nn.Conv2d(c, 2 * c, 3, padding=1))
    m.add_module("act2", nn.ReLU())
    m.add_module("pool2", nn.AdaptiveAvgPool2d(2))
    m.add_module("flat", nn.Flatten())
    m.add_module("fc", nn.Linear(8 * c, 10))
    return m


class FeatureTap:
    """Remembers what a layer of a model gave the last time it ran."""

    def __init__(self, model, layer):
        self.value = None
        self.handle = dict(model.named_modules())[layer].register_forward_hook(self._keep)

    def _keep(self, module, inputs, output):
        self.value = output

    def close(self):
        self.handle.remove()


class HintDistiller:
    def __init__(self, teacher, student, layer="act2", c_s=12, c_t=40, beta=0.5, lr=3e-3):
        self.teacher, self.student, self.beta = teacher, student, beta
        teacher.eval()
        for p in teacher.parameters():
            p.requires_grad_(False)
        self.tap_t, self.tap_s = FeatureTap(teacher, layer), FeatureTap(student, layer)
        self.regressor = nn.Conv2d(c_s, c_t, 1)
        self.opt = torch.optim.Adam([*student.parameters(), *self.regressor.parameters()], lr=lr)

    def hint_loss(self):
        return F.mse_loss(self.regressor(self.tap_s.value), self.tap_t.value)

    def step(self, x, y):
        self.student.train()
        with torch.no_grad():
            self.teacher(x)
        logits = self.student(x)
        loss = F.cross_entropy(logits, y) + self.beta * self.hint_loss()
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        return loss.item()


def accuracy(model, x, y):
    model.eval()
    with torch.no_grad():
        return 100 * (model(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    digits = load_digits()
    x, y = torch.tensor(digits.images).float()[:, None] / 16, torch.tensor(digits.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(90))
    x, y = x[p], y[p]
    teacher = make_cnn(20)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(14):
        for xb, yb in DataLoader(TensorDataset(x[:1000], y[:1000]), 50, shuffle=True):
            opt.zero_grad()
            F.cross_entropy(teacher(xb), yb).backward()
            opt.step()
    print(f"teacher {accuracy(teacher, x[1000:], y[1000:]):.2f}")
    student = make_cnn(6)
    distiller = HintDistiller(teacher, student)
    few = torch.randperm(1000)[:120]
    loader = DataLoader(TensorDataset(x[few], y[few]), 20, shuffle=True)
    for epoch in range(40):
        total = sum(distiller.step(xb, yb) for xb, yb in loader)
        if epoch % 10 == 0:
            print(f"epoch {epoch} loss {total / len(loader):.4f}")
    distiller.tap_s.close()
    distiller.tap_t.close()
    print(f"top1 {accuracy(student, x[1000:], y[1000:]):.2f}")


if __name__ == "__main__":
    main()
