"""A forest of trees teaches a small net: the forest is wrapped as a module, so that the usual loss can be used."""
import argparse

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import train_test_split


class ForestTeacher(nn.Module):
    """Looks like a net from outside: images in, logits out."""

    def __init__(self, n_trees=200, seed=0):
        super().__init__()
        self.forest = ExtraTreesClassifier(n_trees, min_samples_leaf=2, random_state=seed)

    def fit(self, x, y):
        self.forest.fit(x.numpy(), y.numpy())
        return self.eval()

    @torch.no_grad()
    def forward(self, x):
        votes = torch.from_numpy(self.forest.predict_proba(x.numpy())).float()
        return votes


class DistillationLoss(nn.Module):
    def __init__(self, temperature=2.0, soft_weight=0.8):
        super().__init__()
        self.temperature, self.soft_weight = temperature, soft_weight
        self.kl, self.ce = nn.KLDivLoss(reduction="batchmean"), nn.CrossEntropyLoss()

    def forward(self, student_logits, teacher_logits, target):
        soft = self.kl(F.log_softmax(student_logits / self.temperature, dim=1),
                       F.softmax(teacher_logits / self.temperature, dim=1)) * self.temperature ** 2
        return self.soft_weight * soft + (1 - self.soft_weight) * self.ce(student_logits, target)


def make_student(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 28), nn.Tanh(), nn.Linear(28, 10))


def make_teacher(x, y, seed):
    return ForestTeacher(seed=seed).fit(x, y)


def train(student, teacher, x, y, epochs=60, lr=1e-2):
    criterion = DistillationLoss()
    optimizer = torch.optim.Adam(student.parameters(), lr=lr)
    answers = teacher(x)
    student.train()
    for epoch in range(epochs):
        for rows in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            loss = criterion(student(x[rows]), answers[rows], y[rows])
            loss.backward()
            optimizer.step()
        if epoch % 15 == 0:
            print(f"{epoch:3d} {loss.item():.4f}")


def load(seed):
    x, y = load_digits(return_X_y=True)
    xa, xb, ya, yb = train_test_split((x / 16).astype(np.float32), y, train_size=1000, random_state=805, stratify=y)
    few = np.random.default_rng(seed).choice(1000, 200, replace=False)
    return tuple(map(torch.from_numpy, (xa, ya, xa[few], ya[few], xb, yb)))


def top1(model, x, y):
    model.eval()
    with torch.no_grad():
        return 100.0 * (model(x).argmax(1) == y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    xa, ya, xf, yf, xt, yt = load(args.seed)
    teacher = make_teacher(xa, ya, args.seed)
    print(f"teacher {top1(teacher, xt, yt):.2f}")
    student = make_student(args.seed)
    train(student, teacher, xf, yf)
    print(f"top1 {top1(student, xt, yt):.2f}")


if __name__ == "__main__":
    main()
