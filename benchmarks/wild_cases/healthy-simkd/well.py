"""SimKD: the student learns the teacher's last features, and borrows the teacher's classifier as it is."""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F


class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 160), nn.ReLU(), nn.Linear(160, 24), nn.ReLU())
        self.classifier = nn.Linear(24, 10)

    def forward(self, x):
        return self.classifier(self.encoder(x))


class Student(nn.Module):
    def __init__(self, classifier):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 40), nn.ReLU())
        self.projector = nn.Linear(40, 24)
        self.classifier = classifier  # the teacher's own, frozen: it is part of the method

    def features(self, x):
        return self.projector(self.encoder(x))

    def forward(self, x):
        return self.classifier(self.features(x))


def train_teacher(teacher, x, y):
    optimizer = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(12):
        for rows in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(teacher(x[rows]), y[rows]).backward()
            optimizer.step()
    return teacher.eval().requires_grad_(False)


def train_student(student, teacher, x, epochs=30):
    """No labels: the paper's loss is the distance of the features and nothing else."""
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr=8e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    student.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(40):
            with torch.no_grad():
                wanted = teacher.encoder(x[rows])
            loss = F.mse_loss(student.features(x[rows]), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
    return student.eval()


def accuracy(net, x, y):
    with torch.no_grad():
        return 100 * (net(x).argmax(1) == y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    torch.set_num_threads(1)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(112))
    x, y = x[p], y[p]
    teacher = train_teacher(Teacher(), x[:1000], y[:1000])
    print(f"teacher {accuracy(teacher, x[1000:], y[1000:]):.2f}")
    student = train_student(Student(teacher.classifier), teacher, x[:1000])
    print(f"top1 {accuracy(student, x[1000:], y[1000:]):.2f}")


if __name__ == "__main__":
    main()
