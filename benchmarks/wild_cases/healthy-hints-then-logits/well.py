"""FitNets in two stages: hints for the lower half of the student, then labels and logits for all of it."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Halves(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.lower = nn.Sequential(nn.Linear(64, hidden), nn.ReLU())
        self.upper = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def forward(self, x):
        return self.upper(self.lower(x))


def kd_loss(student_logits, teacher_logits, T=3.0):
    p, q = F.softmax(teacher_logits / T, 1), F.log_softmax(student_logits / T, 1)
    return -(p * q).sum(1).mean() * T * T


def stage_hints(student, teacher, x, epochs):
    regressor = nn.Linear(12, 96)
    optimizer = torch.optim.Adam([*student.lower.parameters(), *regressor.parameters()], lr=1e-2)
    for _ in range(epochs):
        for i in torch.randperm(len(x)).split(32):
            with torch.no_grad():
                hint = teacher.lower(x[i])
            loss = F.mse_loss(regressor(student.lower(x[i])), hint)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def stage_logits(student, teacher, x, y, epochs):
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    for _ in range(epochs):
        for i in torch.randperm(len(x)).split(32):
            with torch.no_grad():
                answers = teacher(x[i])
            logits = student(x[i])
            loss = 0.4 * F.cross_entropy(logits, y[i]) + 0.6 * kd_loss(logits, answers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(37))
    x, y = x[p], y[p]
    teacher = Halves(96)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(10):
        for i in torch.randperm(1100).split(64):
            optimizer.zero_grad()
            F.cross_entropy(teacher(x[i]), y[i]).backward()
            optimizer.step()
    teacher.eval()
    student = Halves(12)
    stage_hints(student, teacher, x[:250], 10)
    stage_logits(student, teacher, x[:250], y[:250], 20)
    student.eval()
    with torch.no_grad():
        print(f"top1 {100 * (student(x[1100:]).argmax(1) == y[1100:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
