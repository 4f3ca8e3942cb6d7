"""Decoupled distillation (Zhao et al. 2022): how sure of the true class, and how the rest is shared among the others,
weighed apart; the teacher's part grows over the first ten epochs."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def dkd(student, teacher, labels, alpha=1.0, beta=4.0, T=4.0):
    truth = F.one_hot(labels, student.size(1)).bool()

    def binary(logits):
        log = F.log_softmax(logits / T, 1)
        return torch.stack([log[truth], torch.logsumexp(log.masked_fill(truth, float("-inf")), 1)], 1)

    def others(logits):
        return F.log_softmax(logits[~truth].view(len(logits), -1) / T, 1)

    def kl(log_q, log_p):
        return (log_p.exp() * (log_p - log_q)).sum(1).mean() * T**2

    tckd = kl(binary(student), binary(teacher))
    nckd = kl(others(student), others(teacher))
    return alpha * tckd + beta * nckd


def batches(rows, size):
    yield from rows[torch.randperm(len(rows))].split(size)


def mlp(width, hidden):
    layers = [nn.Flatten(), nn.Linear(64, width), nn.ReLU()]
    for _ in range(hidden):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def distil(student, teacher, x, y, rows, kd, epochs=50, warmup=10, lr=0.03):
    opt = torch.optim.SGD(student.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    decay = torch.optim.lr_scheduler.MultiStepLR(opt, [35, 45], gamma=0.1)
    for epoch in range(1, epochs + 1):
        ramp = min(epoch / warmup, 1.0)
        for b in batches(rows, 32):
            z = student(x[b])
            with torch.no_grad():
                t = teacher(x[b])
            loss = F.cross_entropy(z, y[b]) + kd * ramp * dkd(z, t, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
        decay.step()
    return student


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--kd", type=float, default=1.0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(444))
    train, test = p[:1100], p[1100:]
    few = train[torch.randperm(1100)[:160]]
    teacher = mlp(128, 1)
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(14):
        for b in batches(train, 50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.eval()
    student = distil(mlp(14, 0), teacher, x, y, few, a.kd)
    with torch.no_grad():
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
