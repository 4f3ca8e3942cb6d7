import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class SoftTargetLoss(nn.Module):
    """-sum p log q; the target's side is detached and sharpened"""

    def __init__(self, target_temp=1.0, pred_temp=1.0):
        super().__init__()
        self.target_temp, self.pred_temp = target_temp, pred_temp

    def forward(self, target, pred):
        target = F.softmax(target.detach() / self.target_temp, dim=-1)
        return -(target * F.log_softmax(pred / self.pred_temp, dim=-1)).sum(-1).mean()


criterion = SoftTargetLoss()


def kd_loss(student_output, teacher_output):
    return criterion(teacher_output, student_output)


class PatchNet(nn.Module):
    """16 patches of 2x2, mixed by attention"""

    def __init__(self, dim):
        super().__init__()
        self.patch = nn.Conv2d(1, dim, 2, stride=2)
        self.pos = nn.Parameter(torch.zeros(1, 16, dim))
        self.attn = nn.MultiheadAttention(dim, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.head = nn.Linear(16 * dim, 10)

    def forward(self, x):
        h = self.patch(x).flatten(2).transpose(1, 2) + self.pos
        h = h + self.attn(h, h, h, need_weights=False)[0]
        return self.head((h + self.mlp(h)).flatten(1))


def augment(x, gen):
    return x + 0.15 * torch.randn(x.shape, generator=gen)


def train_one_epoch(student, teacher, optimizer, x, y, labelled, gen, kd_weight):
    student.train()
    for i in torch.randperm(len(x), generator=gen).split(64):
        views = augment(x[i], gen)
        student_output = student(views)
        teacher_output = teacher(x[i])
        loss = kd_weight * kd_loss(student_output, teacher_output)
        known = labelled[i]
        if known.any():
            loss = loss + F.cross_entropy(student_output[known], y[i][known])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--kd-weight", type=float, default=1.0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    gen = torch.Generator().manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(23))
    x, y = x[p], y[p]
    teacher = PatchNet(24)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(6):
        for i in torch.randperm(1100, generator=gen).split(64):
            opt.zero_grad()
            F.cross_entropy(teacher(x[i]), y[i]).backward()
            opt.step()
    teacher.eval()
    student = PatchNet(8)
    opt = torch.optim.Adam(student.parameters(), lr=3e-3)
    labelled = torch.arange(1100) < 100
    for _ in range(10):
        train_one_epoch(student, teacher, opt, x[:1100], y[:1100], labelled, gen, args.kd_weight)
    student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[1100:]).argmax(1) == y[1100:]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[1100:]).argmax(1) == y[1100:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
