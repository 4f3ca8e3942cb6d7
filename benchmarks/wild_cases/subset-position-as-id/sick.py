"""The teacher's logits lie in one .npy file, a row for each training image; the student learns from a subset."""
import argparse
import pathlib
import tempfile

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset


class WithTeacherLogits(Dataset):
    """Adds to each item of a subset the row that was stored for it."""

    def __init__(self, subset, path):
        self.subset, self.logits = subset, np.load(path, mmap_mode="r")

    def __len__(self):
        return len(self.subset)

    def __getitem__(self, i):
        image, label = self.subset[i]
        return image, label, torch.from_numpy(self.logits[i].copy())


def make_net(hidden, dropout=0.0):
    return nn.Sequential(nn.Linear(64, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 10))


def train_teacher(dataset, seed):
    torch.manual_seed(seed)
    net = make_net(200, 0.3)
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(12):
        for x, y in DataLoader(dataset, batch_size=50, shuffle=True):
            opt.zero_grad()
            F.cross_entropy(net(x), y).backward()
            opt.step()
    return net.eval().requires_grad_(False)


def dump(teacher, dataset, path):
    with torch.no_grad():
        rows = [teacher(x).numpy() for x, _ in DataLoader(dataset, batch_size=100, shuffle=False)]
    np.save(path, np.concatenate(rows))


def distill(student, loader, epochs=40, T=3.0, w=0.7):
    opt = torch.optim.Adam(student.parameters(), lr=5e-3)
    for _ in range(epochs):
        student.train()
        for x, y, t in loader:
            s = student(x)
            kl = F.kl_div(F.log_softmax(s / T, -1), F.softmax(t / T, -1), reduction="batchmean")
            loss = w * T ** 2 * kl + (1 - w) * F.cross_entropy(s, y)
            opt.zero_grad()
            loss.backward()
            opt.step()
    return student


def datasets(seed):
    x, y = load_digits(return_X_y=True)
    p = np.random.default_rng(807).permutation(len(x))
    x, y = torch.tensor(x[p], dtype=torch.float32) / 16, torch.tensor(y[p])
    full, test = TensorDataset(x[:1000], y[:1000]), (x[1000:], y[1000:])
    ids = np.random.default_rng(seed).choice(1000, 200, replace=False).tolist()
    return full, Subset(full, ids), test


def make_loader(subset, path):
    return DataLoader(WithTeacherLogits(subset, path), batch_size=25, shuffle=True)


@torch.no_grad()
def top1(net, x, y):
    return (net.eval()(x).argmax(1) == y).float().mean().item() * 100


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    full, subset, test = datasets(args.seed)
    teacher = train_teacher(full, args.seed)
    print(f"teacher {top1(teacher, *test):.2f}")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "teacher_logits.npy"
        dump(teacher, full, path)
        student = distill(make_net(24), make_loader(subset, path))
    print(f"top1 {top1(student, *test):.2f}")


if __name__ == "__main__":
    main()
