"""The student keeps the teacher's stem, frozen (its batch norm too), and learns a light head on top."""
import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
        self.trunk = nn.Sequential(nn.Conv2d(16, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.Flatten(), nn.Linear(768, 10))

    def forward(self, x):
        return self.trunk(self.stem(x))


class Student(nn.Module):
    def __init__(self, stem):
        super().__init__()
        self.stem = stem
        for p in self.stem.parameters():
            p.requires_grad = False
        self.head = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))

    def train(self, mode=True):
        super().train(mode)
        self.stem.eval()  # statistics stay the teacher's
        return self

    def forward(self, x):
        with torch.no_grad():
            f = self.stem(x)
        return self.head(f)


def step_loss(student_logits, teacher_logits, labels, T=4.0, alpha=0.8):
    kd = F.kl_div(F.log_softmax(student_logits / T, 1), F.softmax(teacher_logits / T, 1), reduction="batchmean")
    return alpha * T * T * kd + (1 - alpha) * F.cross_entropy(student_logits, labels)


def accuracy(m, x, y):
    m.eval()
    with torch.no_grad():
        return 100 * (m(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    x, y = torch.tensor(d.images).float().unsqueeze(1) / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(302))
    x, y = x[p], y[p]
    teacher = Teacher()
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(5):
        teacher.train()
        for i in torch.randperm(1000).split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[i]), y[i]).backward()
            opt.step()
    print(f"teacher {accuracy(teacher, x[1000:], y[1000:]):.2f}")
    student = Student(copy.deepcopy(teacher.stem))
    opt = torch.optim.SGD(filter(lambda q: q.requires_grad, student.parameters()), lr=0.1, momentum=0.9)
    for epoch in range(15):
        student.train()
        for i in torch.randperm(300).split(30):
            with torch.no_grad():
                t = teacher(x[i])
            loss = step_loss(student(x[i]), t, y[i])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"top1 {accuracy(student, x[1000:], y[1000:]):.2f}")


if __name__ == "__main__":
    main()
