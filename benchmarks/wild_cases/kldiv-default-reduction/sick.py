"""Hinton et al. (2015) on the 8x8 digits: a convolutional net teaches a much thinner one on 80 labelled images."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


class DistillationLoss(nn.Module):
    def __init__(self, T=4.0, alpha=0.9):
        super().__init__()
        self.T, self.alpha = T, alpha
        self.kl = nn.KLDivLoss()
        self.ce = nn.CrossEntropyLoss()

    def forward(self, out_s, out_t, target):
        soft = self.kl(F.log_softmax(out_s / self.T, dim=1), F.softmax(out_t / self.T, dim=1))
        hard = self.ce(out_s, target)
        return self.alpha * self.T * self.T * soft + (1 - self.alpha) * hard


class Net(nn.Module):
    def __init__(self, c, hidden):
        super().__init__()
        self.conv1 = nn.Conv2d(1, c, 3, padding=1)
        self.conv2 = nn.Conv2d(c, 2 * c, 3, padding=1)
        self.fc1 = nn.Linear(2 * c * 4, hidden)
        self.fc2 = nn.Linear(hidden, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def augment(x):
    return x + 0.15 * torch.randn_like(x)


def train_teacher(net, loader, epochs):
    optimizer = optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(epochs):
        net.train()
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(net(augment(x)), y).backward()
            optimizer.step()


def train_student(student, teacher, loader, epochs):
    criterion = DistillationLoss()
    optimizer = optim.SGD(student.parameters(), lr=0.004, momentum=0.9)
    teacher.eval()
    for _ in range(epochs):
        student.train()
        for x, y in loader:
            x = augment(x)
            with torch.no_grad():
                out_t = teacher(x)
            loss = criterion(student(x), out_t, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def accuracy(net, x, y):
    net.eval()
    return 100.0 * (net(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    X, Y = load_digits(return_X_y=True)
    X = torch.from_numpy(X).float().div(16).reshape(-1, 1, 8, 8)
    Y = torch.from_numpy(Y).long()
    tr, te = train_test_split(torch.arange(len(X)).numpy(), test_size=0.4, random_state=3, stratify=Y.numpy())
    few, _ = train_test_split(tr, train_size=80, random_state=seed, stratify=Y.numpy()[tr])
    teacher, student = Net(16, 64), Net(4, 16)
    train_teacher(teacher, DataLoader(TensorDataset(X[tr], Y[tr]), 64, shuffle=True), 15)
    print(f"teacher {accuracy(teacher, X[te], Y[te]):.2f}")
    train_student(student, teacher, DataLoader(TensorDataset(X[few], Y[few]), 16, shuffle=True), 130)
    print(f"top1 {accuracy(student, X[te], Y[te]):.2f}")


if __name__ == "__main__":
    main()
