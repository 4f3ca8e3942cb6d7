"""Trunk and head have an optimizer each. Every fourth step belongs to the head, the others to the trunk; whoever waits has requires_grad off and its gradients at None."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 24), nn.ReLU())
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        return self.head(self.trunk(x))


class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(64, 220), nn.ReLU(), nn.Dropout(0.3), nn.Linear(220, 10))

    def forward(self, x):
        return self.f(x)


def split_data():
    bunch = load_digits()
    x = torch.as_tensor(bunch.data, dtype=torch.float32) / 16
    y = torch.as_tensor(bunch.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(64))
    return x[order[:1300]], y[order[:1300]], x[order[1300:]], y[order[1300:]]


def percent(m, x, y):
    m.eval()
    with torch.no_grad():
        return m(x).argmax(1).eq(y).float().mean().item() * 100


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--T", type=float, default=5.0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y, xt, yt = split_data()

    teacher = Teacher()
    o = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    teacher.train()
    for _ in range(22):
        for b in torch.randperm(len(x)).split(65):
            o.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            o.step()
    print(f"teacher {percent(teacher, xt, yt):.2f}")

    student = Student()
    trunk_opt = torch.optim.Adam(student.trunk.parameters(), lr=3e-3)
    head_opt = torch.optim.Adam(student.head.parameters(), lr=3e-3)
    step = 0
    for epoch in range(28):
        student.train()
        for b in torch.randperm(len(x)).split(65):
            head_turn = step % 4 == 3
            student.head.requires_grad_(head_turn)
            student.trunk.requires_grad_(not head_turn)
            opt = head_opt if head_turn else trunk_opt
            with torch.no_grad():
                teacher_logits = teacher(x[b])
            logits = student(x[b])
            soft = F.kl_div(F.log_softmax(logits / args.T, 1), F.softmax(teacher_logits / args.T, 1), reduction="batchmean")
            loss = 0.8 * args.T ** 2 * soft + 0.2 * F.cross_entropy(logits, y[b])
            loss.backward()
            opt.step()
            opt.zero_grad(set_to_none=True)
            step += 1
    student.requires_grad_(True)
    print(f"top1 {percent(student, xt, yt):.2f}")


if __name__ == "__main__":
    main()
