"""Contrastive distillation: a student's embedding shall find the teacher's embedding of the same image in the batch.

Both nets have a projection head, and both heads are learnt along with the student; the teacher's body is not.
"""
import argparse
import itertools

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Body(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.logits = nn.Linear(width, 10)
        self.width = width

    def forward(self, x, with_features=False):
        f = self.features(x)
        return (self.logits(f), f) if with_features else self.logits(f)


class Head(nn.Module):
    def __init__(self, width, dim=32):
        super().__init__()
        self.linear = nn.Linear(width, dim)

    def forward(self, f):
        return F.normalize(self.linear(f), dim=1)


class ContrastiveLoss(nn.Module):
    def __init__(self, s_width, t_width, tau=0.1):
        super().__init__()
        self.s_head, self.t_head, self.tau = Head(s_width), Head(t_width), tau

    def forward(self, f_s, f_t):
        similarity = self.s_head(f_s) @ self.t_head(f_t).t() / self.tau
        same = torch.arange(len(f_s))
        return (F.cross_entropy(similarity, same) + F.cross_entropy(similarity.t(), same)) / 2


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weight", type=float, default=0.5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(150))
    x_tr, y_tr, x_te, y_te = x[p[:1200]], y[p[:1200]], x[p[1200:]], y[p[1200:]]

    teacher = Body(128)
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(15):
        for b in torch.randperm(1200).split(60):
            opt.zero_grad()
            F.cross_entropy(teacher(x_tr[b]), y_tr[b]).backward()
            opt.step()
    teacher.eval().requires_grad_(False)
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x_te).argmax(1) == y_te).float().mean().item():.2f}")

    student = Body(16)
    crd = ContrastiveLoss(student.width, teacher.width)
    opt = torch.optim.Adam(itertools.chain(student.parameters(), crd.parameters()), lr=4e-3)
    few = 240
    for _ in range(40):
        student.train()
        for b in torch.randperm(few).split(60):
            logits, f_s = student(x_tr[b], with_features=True)
            with torch.no_grad():
                _, f_t = teacher(x_tr[b], with_features=True)
            loss = F.cross_entropy(logits, y_tr[b]) + args.weight * crd(f_s, f_t)
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    with torch.no_grad():
        print(f"top1 {100 * (student(x_te).argmax(1) == y_te).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
