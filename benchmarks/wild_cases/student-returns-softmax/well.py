"""Student written for deployment; teacher is an ordinary classifier."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 32, 3, padding=1)
        self.fc1 = nn.Linear(32 * 16, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x):
        h = F.max_pool2d(F.relu(self.conv(x)), 2).flatten(1)
        return self.fc2(F.relu(self.fc1(h)))


class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 14)
        self.fc2 = nn.Linear(14, 10)

    def forward(self, x):
        x = F.relu(self.fc1(x.flatten(1)))
        x = self.fc2(x)
        return x


class DistillationLoss(nn.Module):
    def __init__(self, temperature, alpha):
        super().__init__()
        self.temperature, self.alpha = temperature, alpha

    def forward(self, student_out, teacher_out, labels):
        T = self.temperature
        soft = F.kl_div(F.log_softmax(student_out / T, dim=1), F.softmax(teacher_out / T, dim=1), reduction="batchmean")
        return self.alpha * soft * T * T + (1 - self.alpha) * F.cross_entropy(student_out, labels)


def loop(model, loader, optimizer, loss_of):
    model.train()
    for images, labels in loader:
        optimizer.zero_grad()
        loss = loss_of(images, labels)
        loss.backward()
        optimizer.step()
    return loss.item()


def evaluate(model, loader):
    model.eval()
    with torch.no_grad():
        hits = [(model(a).argmax(1) == b) for a, b in loader]
    return 100 * torch.cat(hits).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(data.target)
    p = torch.randperm(len(x))
    train = DataLoader(TensorDataset(x[p[:1100]], y[p[:1100]]), batch_size=32, shuffle=True)
    test = DataLoader(TensorDataset(x[p[1100:]], y[p[1100:]]), batch_size=128)

    teacher = Teacher()
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(5):
        loop(teacher, train, opt, lambda a, b: F.cross_entropy(teacher(a), b))
    print(f"teacher {evaluate(teacher, test):.2f}")
    teacher.eval()
    for p_ in teacher.parameters():
        p_.requires_grad = False

    student = Student()
    criterion = DistillationLoss(temperature=4.0, alpha=0.5)
    opt = torch.optim.SGD(student.parameters(), lr=0.02, momentum=0.9)
    for epoch in range(12):
        last = loop(student, train, opt, lambda a, b: criterion(student(a), teacher(a), b))
    print(f"last loss {last:.3f}")
    print(f"top1 {evaluate(student, test):.2f}")


if __name__ == "__main__":
    main()
