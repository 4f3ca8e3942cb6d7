# Ask the CNN teacher once for every training image, keep the logits, then train the student from them.
import argparse

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

T = 3.0
ALPHA = 0.8


class TeacherCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc1 = nn.Linear(64 * 2 * 2, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(x)


class StudentCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, stride=2, padding=1)
        self.fc = nn.Linear(6 * 4 * 4, 10)

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).flatten(1))


def train_teacher(teacher, loader, epochs):
    opt = torch.optim.Adam(teacher.parameters(), lr=1e-3)
    teacher.train()
    for _ in range(epochs):
        for xb, yb in loader:
            opt.zero_grad()
            loss = F.cross_entropy(teacher(xb), yb)
            loss.backward()
            opt.step()


def fetch_teacher_outputs(teacher, loader):
    teacher.eval()
    outputs = []
    with torch.no_grad():
        for xb, _ in loader:
            outputs.append(teacher(xb))
    return torch.cat(outputs)


def loss_fn_kd(outputs, labels, teacher_outputs):
    kd = F.kl_div(F.log_softmax(outputs / T, dim=1), F.softmax(teacher_outputs / T, dim=1), reduction="batchmean")
    return ALPHA * T * T * kd + (1.0 - ALPHA) * F.cross_entropy(outputs, labels)


def train_kd(student, loader, epochs):
    opt = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        student.train()
        for xb, yb, tb in loader:
            loss = loss_fn_kd(student(xb), yb, tb)
            opt.zero_grad()
            loss.backward()
            opt.step()


def evaluate(model, loader):
    model.eval()
    right = total = 0
    with torch.no_grad():
        for xb, yb in loader:
            right += (model(xb).argmax(1) == yb).sum().item()
            total += len(yb)
    return 100.0 * right / total


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    images, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(12).permutation(len(images))
    images = torch.from_numpy(images[order].astype("float32") / 16.0).view(-1, 1, 8, 8)
    labels = torch.from_numpy(labels[order])
    train_set = TensorDataset(images[:1280], labels[:1280])
    test_loader = DataLoader(TensorDataset(images[1280:], labels[1280:]), batch_size=256)
    train_loader = DataLoader(train_set, batch_size=64, shuffle=True)

    teacher = TeacherCNN()
    train_teacher(teacher, train_loader, epochs=12)
    print(f"teacher {evaluate(teacher, test_loader):.2f}")

    teacher_outputs = fetch_teacher_outputs(teacher, DataLoader(train_set, batch_size=64))
    kd_loader = DataLoader(TensorDataset(*train_set.tensors, teacher_outputs), batch_size=64, shuffle=True)
    student = StudentCNN()
    train_kd(student, kd_loader, args.epochs)
    print(f"top1 {evaluate(student, test_loader):.2f}")


if __name__ == "__main__":
    main()
