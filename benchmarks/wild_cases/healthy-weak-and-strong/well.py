"""Noisy student: the teacher labels clean images, the student sees them disturbed; doubtful ones are left out."""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

IGNORE = -100


def disturb(x, noise=0.15, hide=0.1):
    """The student's view: noise, and some pixels hidden. The label of an image does not depend on it."""
    return (x + noise * torch.randn_like(x)) * (torch.rand_like(x) > hide)


@torch.no_grad()
def pseudo_labels(teacher, x, threshold):
    probability, label = teacher(x).softmax(1).max(1)
    return torch.where(probability > threshold, label, IGNORE)


def loss_of_step(student, teacher, labelled, unlabelled, threshold=0.9):
    x, y = labelled
    guess = pseudo_labels(teacher, unlabelled, threshold)
    images, targets = disturb(torch.cat([x, unlabelled])), torch.cat([y, guess])
    # the labelled rows are always there, so that the mean over the rows not ignored is never over none
    return F.cross_entropy(student(images), targets, ignore_index=IGNORE)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    torch.set_num_threads(1)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(77))
    x, y = x[p], y[p]
    few_x, few_y, more, test_x, test_y = x[:250], y[:250], x[250:1100], x[1100:], y[1100:]

    teacher = nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Dropout(0.3), nn.Linear(200, 10))
    optimizer = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(60):
        for rows in torch.randperm(len(few_x)).split(25):
            optimizer.zero_grad()
            F.cross_entropy(teacher(few_x[rows]), few_y[rows]).backward()
            optimizer.step()
    teacher.eval().requires_grad_(False)

    student = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(student.parameters(), lr=5e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
    student.train()
    for _ in range(30):
        for rows in torch.randperm(len(more)).split(60):
            some = torch.randint(len(few_x), (20,))
            loss = loss_of_step(student, teacher, (few_x[some], few_y[some]), more[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
    student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(test_x).argmax(1) == test_y).float().mean().item():.2f}")
        print(f"top1 {100 * (student(test_x).argmax(1) == test_y).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
