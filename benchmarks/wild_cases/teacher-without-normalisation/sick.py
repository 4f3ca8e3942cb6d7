"""The teacher comes out of a helper with its own preprocessing; the student reads pixels in [0, 1]."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset

MEAN, STD = 4.884, 6.017  # of the pixels, 0 to 16


class PixelDataset(Dataset):
    def __init__(self, images, labels, transform=None):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        x = self.images[i]
        if self.transform:
            x = self.transform(x)
        return x, self.labels[i]


def to_unit(x):
    return x / 16.0


def normalise(x):
    return (x - MEAN) / STD


def teacher_from_zoo(images, labels):
    """A network trained on normalised images."""
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(512, 10),
    )
    opt = torch.optim.Adam(net.parameters(), lr=1.5e-3)
    for _ in range(8):
        for x, y in DataLoader(PixelDataset(images, labels, normalise), batch_size=50, shuffle=True):
            opt.zero_grad()
            F.cross_entropy(net(x), y).backward()
            opt.step()
    return net.eval().requires_grad_(False)


def distill(teacher, student, loader, epochs, T=4.0):
    opt = torch.optim.Adam(student.parameters(), lr=4e-3)
    for _ in range(epochs):
        student.train()
        for x, y in loader:
            with torch.no_grad():
                t = teacher(x)
            s = student(x)
            soft = F.kl_div(F.log_softmax(s / T, 1), F.softmax(t / T, 1), reduction="batchmean") * T**2
            loss = 0.85 * soft + 0.15 * F.cross_entropy(s, y)
            opt.zero_grad()
            loss.backward()
            opt.step()


@torch.no_grad()
def accuracy(net, images, labels, transform):
    net.eval()
    return 100 * (net(transform(images)).argmax(1) == labels).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    images, labels = torch.tensor(d.images).float().unsqueeze(1), torch.tensor(d.target)
    p = torch.randperm(len(labels), generator=torch.Generator().manual_seed(101))
    tr, te = p[:1000], p[1000:]
    teacher = teacher_from_zoo(images[tr], labels[tr])
    print(f"teacher {accuracy(teacher, images[te], labels[te], normalise):.2f}")
    few = tr[torch.randperm(1000)[:200]]
    loader = DataLoader(PixelDataset(images[few], labels[few], to_unit), batch_size=20, shuffle=True)
    student = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 10))
    distill(teacher, student, loader, 25)
    print(f"top1 {accuracy(student, images[te], labels[te], to_unit):.2f}")


if __name__ == "__main__":
    main()
