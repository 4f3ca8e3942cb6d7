"""Accumulation over micro-batches of unequal size: sums, divided once by the rows of the whole step."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def kd_loss_sum(student_logits, teacher_logits, T=2.0):
    return T * T * F.kl_div(F.log_softmax(student_logits / T, 1), F.softmax(teacher_logits / T, 1), reduction="sum")


def micro_batches(rows, gen):
    sizes = []
    while sum(sizes) < len(rows):
        sizes.append(min(int(torch.randint(3, 14, (1,), generator=gen)), len(rows) - sum(sizes)))
    return rows.split(sizes)


class SumTrainer:
    def __init__(self, student, teacher, lr=0.1):
        self.student, self.teacher = student, teacher
        self.optimizer = torch.optim.SGD(student.parameters(), lr=lr, momentum=0.9)

    def step(self, parts):
        count = sum(len(y) for _, y in parts)
        self.optimizer.zero_grad(set_to_none=True)
        for x, y in parts:
            with torch.no_grad():
                answers = self.teacher(x)
            logits = self.student(x)
            total = 0.5 * F.cross_entropy(logits, y, reduction="sum") + 0.5 * kd_loss_sum(logits, answers)
            (total / count).backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 5.0)
        self.optimizer.step()


def mlp(h):
    return nn.Sequential(nn.Linear(64, h), nn.ReLU(), nn.Linear(h, 10))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    gen = torch.Generator().manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(13))
    x, y = x[p], y[p]
    teacher = mlp(160)
    opt = torch.optim.Adam(teacher.parameters(), lr=5e-3)
    for _ in range(10):
        for i in torch.randperm(1100).split(64):
            opt.zero_grad()
            F.cross_entropy(teacher(x[i]), y[i]).backward()
            opt.step()
    teacher.eval()
    trainer = SumTrainer(mlp(12), teacher)
    for _ in range(25):
        for rows in torch.randperm(250, generator=gen).split(32):
            trainer.step([(x[i], y[i]) for i in micro_batches(rows, gen)])
    with torch.no_grad():
        print(f"top1 {100 * (trainer.student.eval()(x[1100:]).argmax(1) == y[1100:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
