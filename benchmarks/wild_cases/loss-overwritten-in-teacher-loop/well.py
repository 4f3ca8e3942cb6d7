"""Three teachers of different width, one student."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class MLP(nn.Module):
    def __init__(self, h):
        super().__init__()
        self.a = nn.Linear(64, h)
        self.b = nn.Linear(h, 10)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


def kd_term(student_logits, teacher_logits, T):
    p = F.log_softmax(student_logits / T, dim=1)
    q = F.softmax(teacher_logits / T, dim=1)
    return F.kl_div(p, q, reduction="sum") / student_logits.shape[0] * T ** 2


def multi_teacher_loss(student_logits, list_of_teacher_logits, labels, T=3.0, kd_weight=0.6):
    loss = (1 - kd_weight) * F.cross_entropy(student_logits, labels)
    for teacher_logits in list_of_teacher_logits:
        loss += kd_weight / len(list_of_teacher_logits) * kd_term(student_logits, teacher_logits, T)
    return loss


def train_one_teacher(h, x, y):
    net = MLP(h)
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    net.train()
    for _ in range(25):
        for rows in torch.randperm(len(x)).split(60):
            opt.zero_grad()
            loss = F.cross_entropy(net(x[rows]), y[rows])
            loss.backward()
            opt.step()
    net.eval()
    return net


def train_student(student, teachers, x, y, epochs=25):
    opt = torch.optim.Adam(student.parameters(), lr=4e-3)
    student.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(60):
            xb, yb = x[rows], y[rows]
            with torch.no_grad():
                answers = [t(xb) for t in teachers]
            opt.zero_grad()
            loss = multi_teacher_loss(student(xb), answers, yb)
            loss.backward()
            opt.step()
    return student


@torch.no_grad()
def acc(net, x, y):
    net.eval()
    return (net(x).argmax(1) == y).float().mean().item() * 100


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x = torch.tensor(x, dtype=torch.float32) / 8 - 0.6
    y = torch.tensor(y, dtype=torch.long)
    g = torch.Generator().manual_seed(99)
    perm = torch.randperm(len(x), generator=g)
    tr, te = perm[:1200], perm[1200:]
    teachers = [train_one_teacher(h, x[tr], y[tr]) for h in (64, 96, 128)]
    for t in teachers:
        print(f"teacher {acc(t, x[te], y[te]):.2f}")
    student = train_student(MLP(10), teachers, x[tr], y[tr])
    print(f"top1 {acc(student, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
