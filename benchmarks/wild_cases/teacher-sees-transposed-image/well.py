"""Images come channels-last (N, H, W, C) from numpy. The student is an MLP, the teacher a CNN that wants N, C, H, W."""
import argparse

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

MEAN, STD = 0.305, 0.376


class TeacherCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(1, 16, 3, padding=1)
        self.c2 = nn.Conv2d(16, 32, 3, padding=1)
        self.f1 = nn.Linear(32 * 16, 64)
        self.f2 = nn.Linear(64, 10)

    def forward(self, x):
        assert x.shape[1:] == (1, 8, 8)
        x = F.max_pool2d(F.relu(self.c2(F.relu(self.c1(x)))), 2)
        return self.f2(F.relu(self.f1(x.flatten(1))))


class StudentMLP(nn.Module):
    def __init__(self, hidden=24):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def forward(self, x):
        return self.body(x)


def load():
    d = load_digits()
    images = (d.images[..., None] / 16 - MEAN) / STD          # (N, 8, 8, 1)
    order = np.random.RandomState(10).permutation(len(images))
    images, labels = images[order].astype("float32"), d.target[order]
    return (images[:1100], labels[:1100]), (images[1100:], labels[1100:])


def train_teacher(images, labels):
    x = torch.from_numpy(np.ascontiguousarray(np.transpose(images, (0, 3, 1, 2))))
    loader = DataLoader(TensorDataset(x, torch.from_numpy(labels)), batch_size=50, shuffle=True)
    net = TeacherCNN()
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    net.train()
    for _ in range(14):
        for xb, yb in loader:
            opt.zero_grad()
            F.cross_entropy(net(xb), yb).backward()
            opt.step()
    return net


def distil_step(student, teacher, images, labels, optimizer, T=3.0, alpha=0.8):
    """images: (B, H, W, C)"""
    with torch.no_grad():
        t = teacher(images.permute(0, 3, 1, 2))
    s = student(images)
    soft = -(F.softmax(t / T, 1) * F.log_softmax(s / T, 1)).sum(1).mean() * T * T
    loss = alpha * soft + (1 - alpha) * F.cross_entropy(s, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def test_accuracy(net, x, y):
    net.eval()
    with torch.no_grad():
        return (net(x).argmax(1) == y).float().mean().item() * 100


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    (xa, ya), (xb, yb) = load()
    teacher = train_teacher(xa, ya)
    x_test, y_test = torch.from_numpy(xb), torch.from_numpy(yb)
    print(f"teacher {test_accuracy(teacher, torch.from_numpy(np.transpose(xb, (0, 3, 1, 2)).copy()), y_test):.2f}")
    teacher.requires_grad_(False).eval()

    student = StudentMLP()
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(torch.from_numpy(xa), torch.from_numpy(ya)), batch_size=50, shuffle=True)
    for _ in range(20):
        student.train()
        for images, labels in loader:
            distil_step(student, teacher, images, labels, optimizer)
    print(f"top1 {test_accuracy(student, x_test, y_test):.2f}")


if __name__ == "__main__":
    main()
