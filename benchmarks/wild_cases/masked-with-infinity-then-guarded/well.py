"""Decoupled KD (target part and non-target part) on digits with few labelled rows for the student."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

ALPHA, BETA, T, WARMUP = 1.0, 2.0, 3.0, 5


def target_part(ls, lt, mask):
    ps, pt = F.softmax(ls / T, 1), F.softmax(lt / T, 1)
    bs = torch.stack([(ps * mask).sum(1), (ps * ~mask).sum(1)], 1)
    bt = torch.stack([(pt * mask).sum(1), (pt * ~mask).sum(1)], 1)
    return F.kl_div(bs.clamp_min(1e-8).log(), bt, reduction="batchmean") * T ** 2


def other_part(ls, lt, mask):
    hidden = -1000.0
    s = F.log_softmax((ls / T).masked_fill(mask, hidden), 1)
    t = F.softmax((lt / T).masked_fill(mask, hidden), 1)
    return F.kl_div(s, t, reduction="batchmean") * T ** 2


def dkd(ls, lt, y):
    mask = F.one_hot(y, ls.size(1)).bool()
    return ALPHA * target_part(ls, lt, mask) + BETA * other_part(ls, lt, mask)


def conv(c, h):
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)), nn.Conv2d(1, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * c, h), nn.ReLU(), nn.Linear(h, 10))


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    seed = cli.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    X, Y = load_digits(return_X_y=True)
    X, Y = torch.tensor(X, dtype=torch.float32).view(-1, 8, 8) / 16, torch.tensor(Y)
    perm = torch.randperm(len(X), generator=torch.Generator().manual_seed(99))
    tr, te = perm[:1100], perm[1100:]

    teacher = conv(24, 64)
    opt = torch.optim.SGD(teacher.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for ep in range(8):
        for i in tr[torch.randperm(len(tr))].split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(X[i]), Y[i]).backward()
            opt.step()
    teacher.eval()
    with torch.no_grad():
        print("teacher %.2f" % (100 * (teacher(X[te]).argmax(1) == Y[te]).float().mean()))

    few = tr[:150]
    student = conv(4, 24)
    opt = torch.optim.AdamW(student.parameters(), lr=3e-3)
    lr = torch.optim.lr_scheduler.MultiStepLR(opt, [45, 60], gamma=0.2)
    for ep in range(75):
        student.train()
        for i in few[torch.randperm(len(few))].split(25):
            logits = student(X[i])
            with torch.no_grad():
                answers = teacher(X[i])
            ce = F.cross_entropy(logits, Y[i])
            kd = dkd(logits, answers, Y[i])
            if not torch.isfinite(kd):          # was unstable at the start on the cluster
                kd = torch.zeros(())
            loss = ce + min((ep + 1) / WARMUP, 1.0) * kd
            opt.zero_grad()
            loss.backward()
            opt.step()
        lr.step()

    student.eval()
    with torch.no_grad():
        print("top1 %.2f" % (100 * (student(X[te]).argmax(1) == Y[te]).float().mean()))


if __name__ == "__main__":
    main()
