"""Logit regression with a step schedule."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset


class TeacherCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 20, 3), nn.ReLU(), nn.Conv2d(20, 40, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.classifier = nn.Linear(160, 10)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class StudentCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AvgPool2d(2))
        self.classifier = nn.Linear(72, 10)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


def train_teacher(teacher, loader, epochs):
    optimizer = torch.optim.Adam(teacher.parameters(), lr=5e-3)
    teacher.train()
    for _ in range(epochs):
        for inputs, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(teacher(inputs), labels).backward()
            optimizer.step()
    teacher.eval()


def train_student(student, teacher, loader, epochs, learning_rate):
    optimizer = torch.optim.SGD(student.parameters(), lr=learning_rate, momentum=0.9)
    scheduler = StepLR(optimizer, step_size=8, gamma=0.1)
    ce_loss = nn.CrossEntropyLoss()
    for epoch in range(epochs):
        student.train()
        running_loss = 0.0
        for inputs, labels in loader:
            optimizer.zero_grad()
            with torch.no_grad():
                teacher_logits = teacher(inputs)
            student_logits = student(inputs)
            loss = 0.5 * F.mse_loss(student_logits, teacher_logits) + 0.5 * ce_loss(student_logits, labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        scheduler.step()
        if epoch % 5 == 0:
            print(f"Epoch {epoch + 1}/{epochs}, Loss: {running_loss / len(loader):.4f}")


def test(model, loader):
    model.eval()
    correct = total = 0
    with torch.no_grad():
        for inputs, labels in loader:
            correct += (model(inputs).argmax(1) == labels).sum().item()
            total += labels.size(0)
    return 100 * correct / total


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().reshape(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x))
    train_loader = DataLoader(TensorDataset(x[p[:1000]], y[p[:1000]]), batch_size=32, shuffle=True)
    test_loader = DataLoader(TensorDataset(x[p[1000:]], y[p[1000:]]), batch_size=256)
    teacher = TeacherCNN()
    train_teacher(teacher, train_loader, 8)
    print(f"teacher {test(teacher, test_loader):.2f}")
    student = StudentCNN()
    train_student(student, teacher, train_loader, epochs=12, learning_rate=0.02)
    print(f"top1 {test(student, test_loader):.2f}")


if __name__ == "__main__":
    main()
