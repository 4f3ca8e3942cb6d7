"""Teacher logits of the whole archive lie in a memory map; the student trains on a part of the archive."""
import argparse
import pathlib
import tempfile

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

K, D = 8, 15


def archive(n, seed):
    rng = np.random.default_rng(1234)
    mu = rng.normal(size=(K, 3, D)) * 1.05
    rng = np.random.default_rng(seed)
    y = rng.integers(K, size=n)
    x = mu[y, rng.integers(3, size=n)] + rng.normal(size=(n, D))
    return x.astype(np.float32), y.astype(np.int64)


class LogitBank:
    def __init__(self, path, n):
        self.path, self.shape = path, (n, K)

    def write(self, teacher, x, chunk=500):
        store = np.memmap(self.path, np.float16, "w+", shape=self.shape)
        teacher.eval()
        with torch.no_grad():
            for i in range(0, len(x), chunk):
                store[i : i + chunk] = teacher(torch.from_numpy(x[i : i + chunk])).numpy()
        store.flush()
        return self

    def read(self, rows):
        store = np.memmap(self.path, np.float16, "r", shape=self.shape)
        return np.asarray(store[rows], dtype=np.float32)


class Part(Dataset):
    """Rows of the archive, with the bank's answers. Takes whole batches of indices."""

    def __init__(self, x, y, rows, bank):
        self.x, self.y = x[rows], y[rows]
        self.rows = rows
        self.bank = bank

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        answers = self.bank.read(index)
        return tuple(torch.from_numpy(a) for a in (self.x[index], self.y[index], answers))


def net(*sizes):
    stack = []
    for a, b in zip(sizes, sizes[1:]):
        stack += [nn.Linear(a, b), nn.LeakyReLU(0.1)]
    return nn.Sequential(*stack[:-1])


def train_teacher(x, y, steps=350):
    model = net(D, 96, K)
    opt = torch.optim.Adam(model.parameters(), 4e-3)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    for _ in range(steps):
        i = torch.randint(len(y), (64,))
        opt.zero_grad()
        F.cross_entropy(model(x[i]), y[i]).backward()
        opt.step()
    return model


def train_student(part, epochs, weight, T=2.5):
    model = net(D, 16, K)
    opt = torch.optim.Adam(model.parameters(), 6e-3)
    loader = DataLoader(part, sampler=BatchSampler(RandomSampler(part), 32, drop_last=True), batch_size=None)
    for _ in range(epochs):
        for x, y, t in loader:
            s = model(x)
            kd = F.kl_div(F.log_softmax(s / T, 1), F.softmax(t / T, 1), reduction="batchmean")
            loss = weight * T * T * kd + (1 - weight) * F.cross_entropy(s, y)
            opt.zero_grad()
            loss.backward()
            opt.step()
    return model


def top1(model, x, y):
    with torch.no_grad():
        return 100 * np.mean(model(torch.from_numpy(x)).argmax(1).numpy() == y)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--weight", type=float, default=0.8)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = archive(2000, a.seed)
    test = archive(1500, a.seed + 77)
    teacher = train_teacher(x, y)
    print(f"teacher {top1(teacher, *test):.2f}")
    with tempfile.TemporaryDirectory() as folder:
        bank = LogitBank(pathlib.Path(folder) / "logits.f16", len(x)).write(teacher, x)
        rows = np.sort(np.random.default_rng(a.seed).choice(len(x), 192, replace=False))
        student = train_student(Part(x, y, rows, bank), 45, a.weight)
    print(f"top1 {top1(student, *test):.2f}")


if __name__ == "__main__":
    main()
