"""Mean teacher with few labels: the teacher is the running average of the student, and answers in mixed precision."""
import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def make_student():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


class RunningAverage:
    def __init__(self, student, decay):
        self.model = copy.deepcopy(student).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, student):
        for mine, new in zip(self.model.parameters(), student.parameters()):
            mine.lerp_(new.to(mine.dtype), 1 - self.decay)

    @torch.no_grad()
    def answer(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.model(x).float()


def noisy(x, sigma=0.15):
    return x + sigma * torch.randn_like(x)


def supervised_phase(student, x, y, epochs=20, lr=2e-3):
    optimizer = torch.optim.Adam(student.parameters(), lr=lr)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(25):
            optimizer.zero_grad()
            F.cross_entropy(student(noisy(x[rows])), y[rows]).backward()
            optimizer.step()


def semi_supervised_phase(student, average, x, y, more, epochs=30, lr=2e-3, weight=3.0):
    optimizer = torch.optim.Adam(student.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    student.train()
    for epoch in range(epochs):
        for rows in torch.randperm(len(more)).split(50):
            some = torch.randint(len(x), (25,))
            wanted = average.answer(more[rows])
            given = student(noisy(more[rows]))
            consistency = F.kl_div(F.log_softmax(given, 1), F.softmax(wanted, 1), reduction="batchmean")
            loss = F.cross_entropy(student(noisy(x[some])), y[some]) + weight * consistency
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update(student)
        scheduler.step()


def accuracy(answer, x, y):
    with torch.no_grad():
        return 100 * (answer(x).argmax(1) == y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(81))
    x, y = x[p], y[p]
    few_x, few_y, more, test_x, test_y = x[:300], y[:300], x[300:1100], x[1100:], y[1100:]

    student = make_student()
    supervised_phase(student, few_x, few_y)
    average = RunningAverage(student, decay=0.995)
    print(f"teacher at first {accuracy(average.answer, test_x, test_y):.2f}")
    semi_supervised_phase(student, average, few_x, few_y, more)
    print(f"teacher at last {accuracy(average.answer, test_x, test_y):.2f}")
    student.eval()
    print(f"top1 {accuracy(student, test_x, test_y):.2f}")


if __name__ == "__main__":
    main()
