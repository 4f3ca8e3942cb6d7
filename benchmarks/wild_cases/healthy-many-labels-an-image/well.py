"""Multi-label: two digits side by side, the answer is which of ten digits occur.

Each class is its own yes/no question, so the KD term is a two-way KL for each class, summed over classes, mean over rows."""
import argparse
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def pairs(images, digits, n, rng):
    i, j = rng.integers(0, len(images), n), rng.integers(0, len(images), n)
    x = np.concatenate([images[i], images[j]], 2)
    y = np.zeros((n, 10), np.float32)
    y[np.arange(n), digits[i]] = 1
    y[np.arange(n), digits[j]] = 1
    return torch.from_numpy(x).float().unsqueeze(1) / 16, torch.from_numpy(y)


def binary_kd(student_logits, teacher_logits, targets, T=2.0, weight=0.7):
    hard = F.binary_cross_entropy_with_logits(student_logits, targets, reduction="none").sum(1).mean()
    s = torch.stack([F.logsigmoid(student_logits / T), F.logsigmoid(-student_logits / T)], -1)
    t = torch.stack([F.logsigmoid(teacher_logits / T), F.logsigmoid(-teacher_logits / T)], -1)
    soft = (t.exp() * (t - s)).sum((1, 2)).mean() * T * T
    return (1 - weight) * hard + weight * soft


def net(c):
    return nn.Sequential(nn.Conv2d(1, c, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Conv2d(c, 2 * c, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(2 * c * 32, 8 * c), nn.ReLU(),
                         nn.Linear(8 * c, 10))


def label_accuracy(model, x, y):
    model.eval()
    with torch.no_grad():
        return 100 * ((model(x) > 0).float() == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    d = load_digits()
    order = np.random.default_rng(3).permutation(len(d.target))
    tr, te = order[:1300], order[1300:]
    x, y = pairs(d.images[tr], d.target[tr], 2000, rng)
    xt, yt = pairs(d.images[te], d.target[te], 1000, np.random.default_rng(4))

    teacher = net(10)
    opt = torch.optim.Adam(teacher.parameters(), 4e-3)
    for _ in range(9):
        teacher.train()
        for b in torch.randperm(len(x)).split(64):
            loss = F.binary_cross_entropy_with_logits(teacher(x[b]), y[b], reduction="none").sum(1).mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"teacher {label_accuracy(teacher, xt, yt):.2f}")
    teacher.requires_grad_(False)

    student = net(5)
    opt = torch.optim.Adam(student.parameters(), 6e-3)
    for _ in range(10):
        student.train()
        for b in torch.randperm(len(x)).split(64):
            with torch.no_grad():
                answers = teacher(x[b])
            loss = binary_kd(student(x[b]), answers, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"top1 {label_accuracy(student, xt, yt):.2f}")


if __name__ == "__main__":
    main()
