"""A specialist: the teacher knows ten digits, the student only the primes. Its columns are picked, then softened."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

PRIMES = [7, 2, 5, 3]  # the order of the student's outputs


def net(width, classes):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * width, classes),
    )


def kd_loss(student_logits, teacher_logits, T=3.0):
    picked = teacher_logits[:, PRIMES]  # softmax over these four: the teacher's belief, given that it is a prime
    log_q = F.log_softmax(student_logits / T, dim=1)
    log_p = F.log_softmax(picked / T, dim=1)
    return T**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--alpha", type=float, default=0.7, help="share of the teacher")
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(29))
    rows, test = p[:1100], p[1100:]

    teacher = net(24, 10)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(8):
        for b in rows[torch.randperm(len(rows))].split(50):
            loss = F.cross_entropy(teacher(x[b]), y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    teacher.eval().requires_grad_(False)

    place = torch.full((10,), -1)
    place[PRIMES] = torch.arange(len(PRIMES))
    rows, test = rows[place[y[rows]] >= 0], test[place[y[test]] >= 0]
    few = rows[torch.randperm(len(rows))[:80]]
    student = net(4, len(PRIMES))
    opt = torch.optim.Adam(student.parameters(), lr=5e-3)
    student.train()
    for _ in range(60):
        for b in few[torch.randperm(len(few))].split(20):
            with torch.no_grad():
                t = teacher(x[b])
            s = student(x[b])
            loss = a.alpha * kd_loss(s, t) + (1 - a.alpha) * F.cross_entropy(s, place[y[b]])
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[test]).argmax(1) == place[y[test]]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
