"""Decoupled distillation: the probability of the true class, and the distribution over the other nine, with a warm-up."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def dkd(logits_s, logits_t, target, alpha=1.0, beta=2.0, T=4.0):
    mask = F.one_hot(target, logits_s.size(1)).bool()
    p_s, p_t = F.softmax(logits_s / T, 1), F.softmax(logits_t / T, 1)
    pair_s = torch.stack([p_s[mask], p_s.masked_fill(mask, 0).sum(1)], 1).clamp_min(1e-8)
    pair_t = torch.stack([p_t[mask], p_t.masked_fill(mask, 0).sum(1)], 1)
    tckd = F.kl_div(pair_s.log(), pair_t, reduction="batchmean") * T**2
    rest_s = F.log_softmax(logits_s / T - 1000.0 * mask, 1)
    rest_t = F.softmax(logits_t / T - 1000.0 * mask, 1)
    nckd = F.kl_div(rest_s, rest_t, reduction="batchmean") * T**2
    return alpha * tckd + beta * nckd


class Conv(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, c, 3, padding=1), nn.Conv2d(c, 2 * c, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(2 * c)
        self.fc = nn.Linear(2 * c * 16, 10)

    def forward(self, x):
        h = F.relu(self.bn(self.b(F.relu(self.a(x)))))
        return self.fc(h.flatten(1))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--warmup", type=int, default=5)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x))
    tr, te = p[:1100], p[1100:]

    teacher = Conv(16)
    opt = torch.optim.Adam(teacher.parameters(), lr=5e-3)
    teacher.train()
    for _ in range(8):
        for b in tr[torch.randperm(len(tr))].split(55):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.eval().requires_grad_(False)

    student = Conv(4)
    opt = torch.optim.Adam(student.parameters(), lr=5e-3)
    for epoch in range(14):
        student.train()
        warm = min(1.0, (epoch + 1) / a.warmup)
        for b in tr[torch.randperm(len(tr))].split(55):
            out = student(x[b])
            loss = F.cross_entropy(out, y[b]) + warm * dkd(out, teacher(x[b]), y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[te]).argmax(1) == y[te]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[te]).argmax(1) == y[te]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
