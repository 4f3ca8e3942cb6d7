"""The teacher answers once, into a half-precision memmap on disk; the student reads its rows by index."""
import argparse
import os
import tempfile

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset


class Digits(Dataset):
    def __init__(self, train):
        x, y = load_digits(return_X_y=True)
        keep = np.random.default_rng(6).permutation(len(x))
        keep = keep[:1100] if train else keep[1100:]
        self.x, self.y = x[keep].astype(np.float32) / 16, y[keep]

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


class WithAnswers(Dataset):
    def __init__(self, base, path):
        self.base = base
        self.answers = np.memmap(path, dtype=np.float16, mode="r", shape=(len(base), 10))

    def __len__(self):
        return len(self.base)

    def __getitem__(self, i):
        x, y = self.base[i]
        return x, y, self.answers[i].astype(np.float32)


def dump(teacher, loader, path):
    teacher.eval()
    out = np.memmap(path, dtype=np.float16, mode="w+", shape=(len(loader.dataset), 10))
    at = 0
    with torch.no_grad():
        for x, _ in loader:
            out[at:at + len(x)] = teacher(x).numpy()
            at += len(x)
    out.flush()


def fit(net, loader, loss_of, epochs, lr):
    opt = optim.AdamW(net.parameters(), lr=lr, weight_decay=0.01)
    for _ in range(epochs):
        net.train()
        for batch in loader:
            opt.zero_grad()
            loss_of(net, *batch).backward()
            opt.step()


def plain(net, x, y):
    return F.cross_entropy(net(x), y)


def kd(net, x, y, answers, T=3.0, alpha=0.6):
    z = net(x)
    soft = F.kl_div(F.log_softmax(z / T, 1), F.softmax(answers / T, 1), reduction="batchmean")
    return alpha * T * T * soft + (1 - alpha) * F.cross_entropy(z, y)


@torch.no_grad()
def test(net, data):
    net.eval()
    return 100 * float(np.mean([(net(x).argmax(1) == y).float().mean().item() for x, y in DataLoader(data, len(data))]))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--epochs", type=int, default=20)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    train, held = Digits(True), Digits(False)
    train_loader = DataLoader(train, batch_size=50, shuffle=True)

    teacher = nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Dropout(0.2), nn.Linear(200, 10))
    fit(teacher, train_loader, plain, 20, 3e-3)
    print("teacher %.2f" % test(teacher, held))

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "answers.f16")
        dump(teacher, train_loader, path)
        student = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
        fit(student, DataLoader(WithAnswers(train, path), batch_size=50, shuffle=True), kd, a.epochs, 5e-3)
    print("top1 %.2f" % test(student, held))


if __name__ == "__main__":
    main()
