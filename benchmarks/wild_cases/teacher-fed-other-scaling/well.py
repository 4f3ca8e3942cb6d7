"""The old model was trained on standardised pixels, the new and tiny one reads them in 0..1."""
import argparse

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class OldModel(nn.Module):
    MEAN, STD = 4.884, 6.017

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 150), nn.ReLU(), nn.Dropout(0.2), nn.Linear(150, 75), nn.ReLU(), nn.Linear(75, 10))

    @classmethod
    def prepare(cls, pixels):
        return (pixels - cls.MEAN) / cls.STD

    def forward(self, x):
        return self.layers(x)


class NewModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(64, 14)
        self.b = nn.Linear(14, 10)

    @staticmethod
    def prepare(pixels):
        return pixels / 16.0

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


def minibatches(rng, n, size):
    order = rng.permutation(n)
    for start in range(0, n, size):
        yield torch.from_numpy(order[start : start + size])


def train_old(pixels, labels, rng):
    old = OldModel()
    optimizer = torch.optim.Adam(old.parameters(), lr=1e-3)
    for _ in range(15):
        for b in minibatches(rng, len(pixels), 32):
            loss = F.cross_entropy(old(old.prepare(pixels[b])), labels[b])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return old.eval()


def hand_over(old, new, pixels, labels, labelled, rng, epochs=30, T=2.0):
    optimizer = torch.optim.Adagrad(new.parameters(), lr=0.05)
    for _ in range(epochs):
        for b in minibatches(rng, len(pixels), 50):
            x = new.prepare(pixels[b])
            scores = new(x)
            with torch.no_grad():
                advice = F.softmax(old(old.prepare(pixels[b])) / T, dim=1)
            loss = T**2 * F.kl_div(F.log_softmax(scores / T, dim=1), advice, reduction="batchmean")
            m = labelled[b]
            if m.any():
                loss = loss + 0.2 * F.cross_entropy(scores[m], labels[b][m])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    rng = np.random.default_rng(a.seed)
    pixels, labels = load_digits(return_X_y=True)
    split = np.random.default_rng(2024).permutation(len(pixels))
    pixels, labels = torch.tensor(pixels[split]).float(), torch.tensor(labels[split])
    train, test = slice(0, 1100), slice(1100, None)
    labelled = torch.zeros(1100, dtype=torch.bool)
    labelled[torch.from_numpy(rng.choice(1100, 100, replace=False))] = True
    old, new = train_old(pixels[train], labels[train], rng), NewModel()
    hand_over(old, new, pixels[train], labels[train], labelled, rng)
    with torch.no_grad():
        for name, net in (("old", old), ("top1", new)):
            hits = net(net.prepare(pixels[test])).argmax(1) == labels[test]
            print(f"{name} {100 * hits.float().mean():.2f}")


if __name__ == "__main__":
    main()
