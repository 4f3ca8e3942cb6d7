"""Teacher and student come from two projects: one standardises each pixel, the other brings pixels to 0 … 1."""
import argparse

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Standardise:
    def __init__(self, pixels):
        self.mean, self.std = pixels.mean(0), pixels.std(0) + 0.1

    def __call__(self, pixels):
        return torch.from_numpy((pixels - self.mean) / self.std).float()


def to_unit(pixels):
    return torch.from_numpy(pixels / 16).float()


class Pretrained:
    """A network with the preprocessing it was trained with."""

    def __init__(self, net, preprocess):
        self.net, self.preprocess = net, preprocess

    def fit(self, pixels, labels, epochs=15, lr=0.02):
        x, y = self.preprocess(pixels), torch.from_numpy(labels)
        opt = torch.optim.SGD(self.net.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
        self.net.train()
        for _ in range(epochs):
            for b in torch.randperm(len(x)).split(40):
                opt.zero_grad()
                F.cross_entropy(self.net(x[b]), y[b]).backward()
                opt.step()
        self.net.eval()
        return self

    @torch.no_grad()
    def logits(self, pixels):
        return self.net(self.preprocess(pixels))


def ask_teacher(teacher, pixels):
    return teacher.logits(pixels)


def make_teacher(pixels, labels):
    net = nn.Sequential(nn.Linear(64, 192), nn.ReLU(), nn.Linear(192, 96), nn.ReLU(), nn.Linear(96, 10))
    return Pretrained(net, Standardise(pixels)).fit(pixels, labels)


def make_student():
    return nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def distil(student, teacher, pixels, labels, alpha, T=2.5, epochs=60):
    x, y = to_unit(pixels), torch.from_numpy(labels)
    soft = F.softmax(ask_teacher(teacher, pixels) / T, dim=1)
    opt = torch.optim.Adam(student.parameters(), lr=5e-3)
    student.train()
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(32):
            z = student(x[b])
            kd = F.kl_div(F.log_softmax(z / T, dim=1), soft[b], reduction="batchmean")
            loss = alpha * T**2 * kd + (1 - alpha) * F.cross_entropy(z, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    return student.eval()


def split(seed):
    pixels, labels = load_digits(return_X_y=True)
    p = np.random.default_rng(64).permutation(len(pixels))
    few = np.random.default_rng(seed).choice(p[:1100], 150, replace=False)
    return (pixels[p[:1100]], labels[p[:1100]]), (pixels[few], labels[few]), (pixels[p[1100:]], labels[p[1100:]])


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--alpha", type=float, default=0.8)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    train, few, (pixels, labels) = split(a.seed)
    teacher = make_teacher(*train)
    student = distil(make_student(), teacher, *few, alpha=a.alpha)
    with torch.no_grad():
        guess = student(to_unit(pixels)).argmax(1).numpy()
    print(f"top1 {100 * (guess == labels).mean():.2f}")


if __name__ == "__main__":
    main()
