"""Temperature distillation, a loop after a notebook."""
import argparse
import random

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset


class Digits(Dataset):
    def __init__(self, images, targets):
        self.images, self.targets = images, targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return torch.tensor(self.images[i] / 16.0, dtype=torch.float32), int(self.targets[i])


class DeepNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x):
        return self.net(x)


class LightNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.05), nn.Linear(16, 10))

    def forward(self, x):
        return self.net(x)


def pretrain(model, loader, epochs):
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    model.train()
    for epoch in range(epochs):
        for images, targets in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), targets).backward()
            optimizer.step()


def train_knowledge_distillation(teacher, student, loader, epochs, learning_rate, T, soft_target_loss_weight, ce_loss_weight):
    optimizer = torch.optim.SGD(student.parameters(), lr=learning_rate, momentum=0.9)
    teacher.eval()
    student.train()
    for epoch in range(epochs):
        running_loss = 0.0
        for images, targets in loader:
            optimizer.zero_grad()
            with torch.no_grad():
                teacher_logits = teacher(images)
            student_logits = student(images)
            soft_targets = F.softmax(teacher_logits / T, dim=-1)
            soft_prob = F.log_softmax(student_logits / T, dim=-1)
            soft_loss = torch.sum(soft_targets * (soft_targets.log() - soft_prob)) / soft_prob.size(0) * (T**2)
            loss = soft_target_loss_weight * soft_loss + ce_loss_weight * F.cross_entropy(student_logits, targets)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        print(f"Epoch {epoch + 1}/{epochs}, Loss: {running_loss / len(loader):.4f}")


def evaluate(model, loader):
    model.eval()
    good = total = 0
    with torch.no_grad():
        for images, targets in loader:
            good += (model(images).argmax(1) == targets).sum().item()
            total += len(targets)
    return 100 * good / total


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    d = load_digits()
    order = np.random.permutation(len(d.target))
    train = DataLoader(Digits(d.data[order[:1200]], d.target[order[:1200]]), batch_size=32, shuffle=True)
    test = DataLoader(Digits(d.data[order[1200:]], d.target[order[1200:]]), batch_size=200)
    teacher, student = DeepNN(), LightNN()
    pretrain(teacher, train, 6)
    print(f"teacher {evaluate(teacher, test):.2f}")
    train_knowledge_distillation(teacher, student, train, 11, 0.02, 2.0, 0.25, 0.75)
    print(f"top1 {evaluate(student, test):.2f}")


if __name__ == "__main__":
    main()
