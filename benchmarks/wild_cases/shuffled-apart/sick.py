import argparse

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


def training_arrays(images, labels, count, seed):
    rng = np.random.default_rng(seed)
    images, labels = images[:count].copy(), labels[:count].copy()
    rng.shuffle(images)
    rng.shuffle(labels)
    return torch.from_numpy(images), torch.from_numpy(labels)


class MLP(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.hidden = nn.Linear(64, hidden)
        self.logits = nn.Linear(hidden, 10)

    def forward(self, x):
        return self.logits(torch.relu(self.hidden(x)))


def fit_teacher(images, labels):
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    net = MLP(256)
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(15):
        for rows in torch.randperm(len(x)).split(60):
            opt.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            opt.step()
    return net.eval().requires_grad_(False)


def fit_student(teacher, x, y, epochs=60, T=2.0, lam=0.3):
    net = MLP(12)
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(20):
            xb, yb = x[rows], y[rows]
            s, t = net(xb), teacher(xb)
            soft = F.kl_div((s / T).log_softmax(1), (t / T).softmax(1), reduction="batchmean") * T * T
            loss = lam * soft + (1 - lam) * F.cross_entropy(s, yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
    return net.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(88).permutation(len(labels))
    images, labels = (images[order] / 16).astype(np.float32), labels[order]
    teacher = fit_teacher(images[:1200], labels[:1200])
    student = fit_student(teacher, *training_arrays(images, labels, 240, seed))
    x, y = torch.from_numpy(images[1200:]), torch.from_numpy(labels[1200:])
    print(f"teacher {100 * (teacher(x).argmax(1) == y).float().mean().item():.2f}")
    with torch.no_grad():
        print(f"top1 {100 * (student(x).argmax(1) == y).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
