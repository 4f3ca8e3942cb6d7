"""Reversed distillation: a modest teacher (smaller than the student) regularises a large student on few labels."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def reversed_kd(student_logits, teacher_logits, labels, tau=3.0, a=0.3):
    soft = F.softmax(teacher_logits / tau, dim=1)
    kd = torch.sum(soft * (torch.log(soft + 1e-12) - F.log_softmax(student_logits / tau, dim=1)), dim=1)
    return ((1 - a) * F.cross_entropy(student_logits, labels, reduction="none") + a * tau * tau * kd).mean()


def train(net, x, y, epochs, lr, teacher=None):
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    for epoch in range(epochs):
        net.train()
        for i in torch.randperm(len(x)).split(25):
            optimizer.zero_grad()
            if teacher is None:
                loss = F.cross_entropy(net(x[i]), y[i])
            else:
                with torch.no_grad():
                    answers = teacher(x[i])
                loss = reversed_kd(net(x[i]), answers, y[i])
            loss.backward()
            optimizer.step()
    return net.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    x, y = torch.tensor(d.data).float() / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(304))
    few, test = p[:400], p[600:]
    teacher = train(nn.Linear(64, 10), x[few], y[few], 25, 3e-3)
    student = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.4), nn.Linear(768, 10),
    )
    train(student, x[few], y[few], 15, 2e-3, teacher)
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
