# knowledge distillation, plain and functional
import argparse
import random

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def set_seed(s):
    random.seed(s)
    np.random.seed(s)
    torch.manual_seed(s)


def get_model(size):
    width = {"large": 32, "small": 4}[size]
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, 10),
    )


def distillation_loss(y_s, y_t, target, temp=2.0, alpha=0.5):
    """y_s: logits of the student, y_t: logits of the teacher"""
    soft = F.kl_div(F.log_softmax(y_s / temp, dim=1), F.softmax(y_t / temp, dim=1), reduction="batchmean")
    return alpha * temp * temp * soft + (1.0 - alpha) * F.cross_entropy(y_s, target)


def train_epoch(net, opt, batches):
    net.train()
    for x, y in batches:
        opt.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        opt.step()


def distill_epoch(teacher, student, opt, batches):
    student.train()
    running = 0.0
    for x, y in batches:
        opt.zero_grad()
        with torch.no_grad():
            out_t = teacher(x)
        out_s = student(x)
        loss = distillation_loss(out_t, out_s, y)
        loss.backward()
        opt.step()
        running += loss.item()
    return running / len(batches)


def test(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100.0 * (net(x).argmax(1) == y).float().mean().item()


def batches_of(x, y, size):
    order = torch.randperm(len(x))
    return [(x[i], y[i]) for i in order.split(size)]


def run(seed):
    set_seed(seed)
    X, Y = load_digits(return_X_y=True)
    X = torch.tensor(X, dtype=torch.float32).view(-1, 1, 8, 8) / 16.0
    Y = torch.tensor(Y)
    order = torch.from_numpy(np.random.RandomState(3).permutation(len(X)))
    tr, te = order[:1100], order[1100:]
    # the labels of the transfer set are clean; the teacher saw noisy ones
    noisy = Y[tr].clone()
    flip = torch.rand(len(tr)) < 0.3
    noisy[flip] = torch.randint(10, (int(flip.sum()),))

    teacher = get_model("large")
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(8):
        train_epoch(teacher, opt, batches_of(X[tr], noisy, 50))
    teacher.eval()
    print("teacher", round(test(teacher, X[te], Y[te]), 2))

    student = get_model("small")
    opt = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    sub = tr[:400]
    for ep in range(15):
        avg = distill_epoch(teacher, student, opt, batches_of(X[sub], Y[sub], 40))
        if ep % 5 == 4:
            print("epoch", ep + 1, "loss", round(avg, 4))
    print(f"top1 {test(student, X[te], Y[te]):.2f}")


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    torch.set_num_threads(1)
    run(p.parse_args().seed)
