"""The student was pretrained for five groups of digits; it gets a new head of ten and is distilled."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn, optim


class Backbone(nn.Module):
    def __init__(self, dim, classes):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.classifier = nn.Linear(dim, classes)

    def forward(self, x):
        return self.classifier(self.trunk(x))


def kd_objective(student_logits, teacher_logits, labels, T, alpha):
    logq = F.log_softmax(student_logits.div(T), dim=-1)
    p = F.softmax(teacher_logits.div(T), dim=-1)
    soft_ce = -(p * logq).sum(-1).mean()
    return alpha * T**2 * soft_ce + (1 - alpha) * F.cross_entropy(student_logits, labels)


def epochs_of(x, y, epochs, size):
    for _ in range(epochs):
        for part in torch.randperm(len(x)).chunk(len(x) // size):
            yield x[part], y[part]


def supervised(net, x, y, epochs):
    opt = optim.Adam(net.parameters(), lr=2e-3)
    for xb, yb in epochs_of(x, y, epochs, 64):
        loss = F.cross_entropy(net(xb), yb)
        opt.zero_grad()
        loss.backward()
        opt.step()
    return net


def main():
    cmd = argparse.ArgumentParser()
    cmd.add_argument("--seed", default=0, type=int)
    seed = cmd.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x = torch.tensor(x, dtype=torch.float32) / 16
    y = torch.tensor(y)
    p = torch.randperm(len(y), generator=torch.Generator().manual_seed(19))
    x, y = x[p], y[p]
    x_test, y_test = x[1200:], y[1200:]
    few = torch.randperm(1200)[:240]

    teacher = supervised(Backbone(128, 10), x[:1200], y[:1200], 20).eval()
    student = supervised(Backbone(16, 5), x[:1200], y[:1200] // 2, 4)

    optimizer = optim.Adam(student.parameters(), lr=2e-3)
    student.classifier = nn.Linear(16, 10)
    student.train()
    for xb, yb in epochs_of(x[few], y[few], 60, 30):
        with torch.no_grad():
            guide = teacher(xb)
        loss = kd_objective(student(xb), guide, yb, T=3.0, alpha=0.6)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    student.eval()
    with torch.no_grad():
        print("teacher %.2f" % (100 * (teacher(x_test).argmax(-1) == y_test).double().mean()))
        print("top1 %.2f" % (100 * (student(x_test).argmax(-1) == y_test).double().mean()))


if __name__ == "__main__":
    main()
