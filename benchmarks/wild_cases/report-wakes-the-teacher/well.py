"""Batch-normed teacher, thin student. Both are reported on the validation part before every epoch."""
import argparse
import random

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split


def conv_block(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True))


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(conv_block(1, 16), nn.MaxPool2d(2), conv_block(16, 32), nn.MaxPool2d(2))
        self.drop = nn.Dropout(0.6)
        self.fc = nn.Sequential(nn.Linear(128, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.6), nn.Linear(64, 10))

    def forward(self, x):
        return self.fc(self.drop(self.features(x).flatten(1)))


class Thin(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).flatten(1))


def report(net, loader):
    was_training = net.training
    net.eval()
    correct = total = 0
    with torch.no_grad():
        for x, y in loader:
            correct += (net(x).argmax(1) == y).sum().item()
            total += len(y)
    net.train(was_training)
    return 100.0 * correct / total


def kd_criterion(student_logits, teacher_logits, labels, T=2.0, w=0.9):
    kd = F.kl_div(F.log_softmax(student_logits / T, 1), F.softmax(teacher_logits / T, 1), reduction="batchmean")
    return w * T ** 2 * kd + (1 - w) * F.cross_entropy(student_logits, labels)


def fit_teacher(net, loader):
    opt = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-3)
    net.train()
    for _ in range(12):
        for x, y in loader:
            opt.zero_grad()
            F.cross_entropy(net(x), y).backward()
            opt.step()


def distil(student, teacher, loader, val_loader, epochs):
    opt = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)
    teacher.eval()
    student.train()
    for epoch in range(epochs):
        t_acc, s_acc = report(teacher, val_loader), report(student, val_loader)
        if epoch % 10 == 0:
            print(f"epoch {epoch}: teacher {t_acc:.1f} student {s_acc:.1f}")
        for x, y in loader:
            with torch.no_grad():
                guide = teacher(x)
            loss = kd_criterion(student(x), guide, y)
            opt.zero_grad()
            loss.backward()
            opt.step()


def loaders(seed):
    digits = load_digits()
    full = TensorDataset(torch.tensor(digits.images).float().unsqueeze(1) / 16, torch.tensor(digits.target))
    train, val, test = random_split(full, [900, 100, 797], generator=torch.Generator().manual_seed(8))
    few, _ = random_split(train, [120, 780], generator=torch.Generator().manual_seed(seed))
    return (
        DataLoader(train, 32, shuffle=True, drop_last=True),
        DataLoader(few, 4, shuffle=True),
        DataLoader(val, 100),
        DataLoader(test, 400),
    )


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", default=0, type=int)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    train_loader, few_loader, val_loader, test_loader = loaders(args.seed)
    teacher = Wide()
    fit_teacher(teacher, train_loader)
    student = Thin()
    distil(student, teacher, few_loader, val_loader, 50)
    print(f"top1 {report(student, test_loader):.2f}")


if __name__ == "__main__":
    main()
