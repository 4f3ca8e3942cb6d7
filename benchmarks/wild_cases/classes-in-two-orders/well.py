"""The labels are words. Teacher: trained by a colleague with sklearn's LabelEncoder. Student: distilled here."""
import argparse

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.preprocessing import LabelEncoder

CLASSES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def read_data():
    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32) / 16.0
    words = np.array([CLASSES[t] for t in data.target])
    order = np.random.RandomState(1).permutation(len(x))
    return x[order], words[order]


class Classifier(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.inp = nn.Linear(64, hidden)
        self.mid = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, len(CLASSES))

    def forward(self, x):
        return self.out(F.relu(self.mid(F.relu(self.inp(x)))))


def teacher_targets(words):
    return torch.tensor(LabelEncoder().fit(CLASSES).transform(words))


def student_targets(words):
    return torch.tensor(LabelEncoder().fit(CLASSES).transform(words))


def train_teacher(x, words, epochs=14):
    y = teacher_targets(words)
    model = Classifier(160)
    optim = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        model.train()
        for start in range(0, len(x), 40):
            xb, yb = x[start:start + 40], y[start:start + 40]
            optim.zero_grad()
            F.cross_entropy(model(xb), yb).backward()
            optim.step()
    return model


class Distiller:
    def __init__(self, teacher, student, T=2.5, alpha=0.5):
        self.teacher = teacher.eval()
        self.student = student
        self.T, self.alpha = T, alpha
        self.optim = torch.optim.Adam(student.parameters(), lr=3e-3)

    def loss(self, s, t, y):
        kd = F.kl_div(F.log_softmax(s / self.T, -1), F.softmax(t / self.T, -1), reduction="batchmean")
        return self.alpha * self.T ** 2 * kd + (1 - self.alpha) * F.cross_entropy(s, y)

    def fit(self, x, y, epochs):
        for _ in range(epochs):
            self.student.train()
            for idx in torch.randperm(len(x)).split(40):
                with torch.no_grad():
                    t = self.teacher(x[idx])
                loss = self.loss(self.student(x[idx]), t, y[idx])
                self.optim.zero_grad()
                loss.backward()
                self.optim.step()


def accuracy(model, x, y):
    model.eval()
    with torch.no_grad():
        return (model(x).argmax(-1) == y).float().mean().item() * 100


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    args = cli.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, words = read_data()
    teacher = train_teacher(x[:1200], words[:1200])
    print("teacher %.2f" % accuracy(teacher, x[1200:], teacher_targets(words[1200:])))
    student = Classifier(16)
    y = student_targets(words)
    Distiller(teacher, student).fit(x[:1200], y[:1200], epochs=20)
    print("top1 %.2f" % accuracy(student, x[1200:], y[1200:]))


if __name__ == "__main__":
    main()
