"""The weights of the two losses are learned (log-variances, Kendall et al.): they sit in the student's optimizer as a group of their own, and the loss may go below zero."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Weigher(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_var = nn.Parameter(torch.zeros(2))

    def forward(self, *losses):
        return sum(torch.exp(-v) * l + 0.5 * v for v, l in zip(self.log_var, losses))


def dense(*d):
    parts = []
    for a, b in zip(d, d[1:]):
        parts += [nn.Linear(a, b), nn.LeakyReLU(0.1)]
    return nn.Sequential(*parts[:-1])


def soft_loss(s, t, tau):
    return F.kl_div(F.log_softmax(s / tau, 1), F.softmax(t / tau, 1), reduction="batchmean") * tau ** 2


def accuracy(m, x, y):
    m.eval()
    with torch.no_grad():
        return 100 * (m(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 8 - 1, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(14))
    x, y, xt, yt = x[p[:1200]], y[p[:1200]], x[p[1200:]], y[p[1200:]]
    teacher = dense(64, 200, 100, 10)
    opt = torch.optim.Adam(teacher.parameters(), lr=1e-3)
    for _ in range(15):
        for b in torch.randperm(1200).split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.eval().requires_grad_(False)
    print(f"teacher {accuracy(teacher, xt, yt):.2f}")
    student, weigher = dense(64, 30, 10), Weigher()
    opt = torch.optim.Adam([
        {"params": student.parameters(), "lr": 5e-3, "weight_decay": 1e-5},
        {"params": weigher.parameters(), "lr": 2e-3, "weight_decay": 0.0},
    ])
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=20)
    for epoch in range(20):
        student.train()
        for b in torch.randperm(1200).split(50):
            with torch.no_grad():
                t = teacher(x[b])
            s = student(x[b])
            loss = weigher(soft_loss(s, t, 4.0), F.cross_entropy(s, y[b]))
            opt.zero_grad()
            loss.backward()
            opt.step()
        sched.step()
    print("weights", [round(v, 2) for v in torch.exp(-weigher.log_var.detach()).tolist()])
    print(f"top1 {accuracy(student, xt, yt):.2f}")


if __name__ == "__main__":
    main()
