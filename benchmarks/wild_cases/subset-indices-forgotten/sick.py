"""Teacher logits are made once for the whole dataset and saved; training reads them beside image and label."""
import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset, Subset, random_split


class Digits(Dataset):
    def __init__(self):
        d = load_digits()
        self.images = d.images.astype(np.float32)[:, None] / 16
        self.targets = d.target

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return self.images[i], self.targets[i]


class WithSoftTargets(Dataset):
    """(image, label, logits) for each sample of `base`."""

    def __init__(self, base, file):
        self.base = base
        self.logits = np.load(file)["logits"]

    def __len__(self):
        return len(self.base)

    def __getitem__(self, i):
        image, label = self.base[i]
        return image, label, self.logits[i]


def lenet(c):
    return nn.Sequential(
        nn.Conv2d(1, c, 3), nn.ReLU(), nn.Conv2d(c, 2 * c, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(8 * c, 4 * c), nn.ReLU(), nn.Linear(4 * c, 10),
    )


def save_logits(net, dataset, file):
    net.eval()
    rows = []
    with torch.no_grad():
        for x, _ in DataLoader(dataset, batch_size=256, shuffle=False):
            rows.append(net(x).numpy())
    np.savez(file, logits=np.concatenate(rows))


def accuracy(net, dataset):
    net.eval()
    hits = 0
    with torch.no_grad():
        for x, y in DataLoader(dataset, batch_size=256):
            hits += (net(x).argmax(1) == y).sum().item()
    return 100 * hits / len(dataset)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--temperature", type=float, default=3.0)
    ap.add_argument("--soft", type=float, default=0.6)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    dataset = Digits()
    train, test = random_split(dataset, [1200, 597], generator=torch.Generator().manual_seed(31))
    teacher = lenet(16)
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(8):
        teacher.train()
        for x, y in DataLoader(train, batch_size=40, shuffle=True):
            opt.zero_grad()
            F.cross_entropy(teacher(x), y).backward()
            opt.step()
    print(f"teacher {accuracy(teacher, test):.2f}")

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "teacher.npz"
        save_logits(teacher, dataset, file)
        few = Subset(dataset, train.indices[:300])
        loader = DataLoader(WithSoftTargets(few, file), batch_size=30, shuffle=True)
        student = lenet(4)
        opt = torch.optim.AdamW(student.parameters(), lr=4e-3)
        for _ in range(15):
            student.train()
            for x, y, t in loader:
                s = student(x)
                T = args.temperature
                soft = F.kl_div(F.log_softmax(s / T, 1), F.softmax(t / T, 1), reduction="batchmean") * T * T
                loss = args.soft * soft + (1 - args.soft) * F.cross_entropy(s, y)
                opt.zero_grad()
                loss.backward()
                opt.step()
    print(f"top1 {accuracy(student, test):.2f}")


if __name__ == "__main__":
    main()
