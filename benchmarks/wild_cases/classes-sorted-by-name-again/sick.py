"""The teacher comes from a folder dataset (classes are folder names, sorted); the student uses the digits themselves."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


class FolderLike:
    """What an image folder would give: class number = rank of the folder's name."""

    def __init__(self, images, digits):
        self.classes = sorted(NAMES)
        self.class_to_idx = {name: i for i, name in enumerate(self.classes)}
        self.images = images
        self.targets = torch.tensor([self.class_to_idx[NAMES[d]] for d in digits.tolist()])


def network(hidden):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 10))


def train_teacher(folder):
    net = network(128)
    loader = DataLoader(TensorDataset(folder.images, folder.targets), batch_size=50, shuffle=True)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(12):
        for images, targets in loader:
            optimizer.zero_grad()
            F.cross_entropy(net(images), targets).backward()
            optimizer.step()
    return net.eval()


def distill(teacher, images, digits, epochs=40, T=2.0, alpha=0.5):
    net = network(8)
    loader = DataLoader(TensorDataset(images, digits), batch_size=20, shuffle=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    for _ in range(epochs):
        net.train()
        for xb, yb in loader:
            out = net(xb)
            with torch.no_grad():
                ref = teacher(xb)
            kd = F.kl_div(F.log_softmax(out / T, 1), F.softmax(ref / T, 1), reduction="batchmean") * T * T
            loss = alpha * kd + (1 - alpha) * F.cross_entropy(out, yb)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data = load_digits()
    images, digits = torch.tensor(data.images).float() / 16, torch.tensor(data.target)
    p = torch.randperm(len(images), generator=torch.Generator().manual_seed(50))
    train, test = p[:1000], p[1000:]
    teacher = train_teacher(FolderLike(images[train], digits[train]))
    few = train[torch.randperm(1000)[:160]]
    student = distill(teacher, images[few], digits[few])
    with torch.no_grad():
        names = [sorted(NAMES)[i] for i in teacher(images[test]).argmax(1).tolist()]
        right = sum(n == NAMES[d] for n, d in zip(names, digits[test].tolist()))
        print(f"teacher {100 * right / len(test):.2f}")
        print(f"top1 {100 * (student(images[test]).argmax(1) == digits[test]).float().mean():.2f}")


if __name__ == "__main__":
    main()
