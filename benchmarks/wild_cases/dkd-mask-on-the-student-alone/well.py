"""Decoupled distillation (target part and non-target part, weighted on their own), written out by hand."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

BIG = 1000.0


def one_hot_mask(logits, target):
    return torch.zeros_like(logits).scatter_(1, target.unsqueeze(1), 1.0)


def binary_split(probs, mask):
    hit = (probs * mask).sum(1, keepdim=True)
    rest = (probs * (1 - mask)).sum(1, keepdim=True)
    return torch.cat([hit, rest], dim=1)


class DKD(nn.Module):
    def __init__(self, alpha=1.0, beta=2.0, temperature=3.0, ce_weight=1.0):
        super().__init__()
        self.alpha, self.beta, self.temperature, self.ce_weight = alpha, beta, temperature, ce_weight

    def forward(self, logits_student, logits_teacher, target):
        T = self.temperature
        mask = one_hot_mask(logits_student, target)
        p_s = binary_split(F.softmax(logits_student / T, dim=1), mask)
        p_t = binary_split(F.softmax(logits_teacher / T, dim=1), mask)
        tckd = F.kl_div(p_s.clamp_min(1e-8).log(), p_t, reduction="batchmean") * T**2
        log_rest_s = F.log_softmax(logits_student / T - BIG * mask, dim=1)
        rest_t = F.softmax(logits_teacher / T - BIG * mask, dim=1)
        nckd = F.kl_div(log_rest_s, rest_t, reduction="batchmean") * T**2
        return self.ce_weight * F.cross_entropy(logits_student, target) + self.alpha * tckd + self.beta * nckd


class PatchMixer(nn.Module):
    """Sixteen patches of 2 x 2 pixels as tokens."""

    def __init__(self, dim, hidden):
        super().__init__()
        self.patch = nn.Conv2d(1, dim, 2, stride=2)
        self.norm = nn.LayerNorm(dim)
        self.across = nn.Sequential(nn.Linear(16, hidden), nn.GELU(), nn.Linear(hidden, 16))
        self.head = nn.Linear(16 * dim, 10)

    def forward(self, x):
        h = self.patch(x).flatten(2).transpose(1, 2)
        h = h + self.across(self.norm(h).transpose(1, 2)).transpose(1, 2)
        return self.head(F.gelu(h).flatten(1))


def fit(model, x, y, epochs, lr, criterion, teacher=None):
    opt = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=epochs)
    for _ in range(epochs):
        model.train()
        for i in torch.randperm(len(x)).split(40):
            out = model(x[i])
            if teacher is None:
                loss = criterion(out, y[i])
            else:
                with torch.no_grad():
                    t_out = teacher(x[i])
                loss = criterion(out, t_out, y[i])
            opt.zero_grad()
            loss.backward()
            opt.step()
        sched.step()


def acc(model, x, y):
    model.eval()
    with torch.no_grad():
        return 100 * (model(x).argmax(1) == y).float().mean().item()


def main(seed, epochs):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x = (torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) - 4.9) / 6.0
    y = torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(17))
    train, test = p[:1150], p[1150:]
    teacher = PatchMixer(24, 64)
    fit(teacher, x[train], y[train], 12, 2e-3, nn.CrossEntropyLoss())
    print(f"teacher {acc(teacher, x[test], y[test]):.2f}")
    teacher.eval()
    for w in teacher.parameters():
        w.requires_grad = False
    few = train[torch.randperm(len(train))[:200]]
    student = PatchMixer(3, 8)
    fit(student, x[few], y[few], epochs, 8e-3, DKD(), teacher)
    print(f"top1 {acc(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--epochs", type=int, default=25)
    a = ap.parse_args()
    main(a.seed, a.epochs)
