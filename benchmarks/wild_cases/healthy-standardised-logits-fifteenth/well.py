"""Logit standardisation (Sun et al., 2024): each row of both nets' logits is z-scored before the KL; labels see raw logits."""
import argparse

import torch
from torch import nn
from torch.nn import functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


def zscore(logits, eps=1e-7):
    return (logits - logits.mean(-1, keepdim=True)) / (logits.std(-1, keepdim=True) + eps)


def kd_loss(student_logits, teacher_logits, labels, temperature=2.0, ce_weight=0.1, kd_weight=0.9):
    s = F.log_softmax(zscore(student_logits) / temperature, dim=1)
    t = F.log_softmax(zscore(teacher_logits) / temperature, dim=1)
    soft = F.kl_div(s, t, reduction="batchmean", log_target=True) * temperature ** 2
    return ce_weight * F.cross_entropy(student_logits, labels) + kd_weight * soft


class Net(nn.Module):
    def __init__(self, hidden, drop):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(drop),
                                  nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(drop))
        self.head = nn.Linear(hidden, 10)

    def forward(self, x):
        return self.head(self.body(x))


@torch.no_grad()
def top1(net, x, y):
    net.eval()
    return 100 * (net(x).argmax(1) == y).double().mean().item()


def run(seed):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    d = load_digits()
    x, y = torch.tensor(d.data, dtype=torch.float32), torch.tensor(d.target)
    perm = torch.randperm(len(x), generator=torch.Generator().manual_seed(11))
    tr, te = perm[:1200], perm[1200:]
    mean, std = x[tr].mean(0), x[tr].std(0) + 1.0
    x = (x - mean) / std
    loader = DataLoader(TensorDataset(x[tr], y[tr]), batch_size=60, shuffle=True)

    teacher = Net(256, 0.3)
    optim = torch.optim.AdamW(teacher.parameters(), lr=2e-3)
    for _ in range(25):
        teacher.train()
        for xb, yb in loader:
            optim.zero_grad(set_to_none=True)
            F.cross_entropy(teacher(xb), yb).backward()
            optim.step()
    print("teacher", top1(teacher, x[te], y[te]))

    teacher.eval()
    for p in teacher.parameters():
        p.requires_grad_(False)
    student = Net(32, 0.05)
    optim = torch.optim.AdamW(student.parameters(), lr=3e-3)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(optim, 40)
    for _ in range(40):
        student.train()
        for xb, yb in loader:
            with torch.no_grad():
                tb = teacher(xb)
            optim.zero_grad(set_to_none=True)
            kd_loss(student(xb), tb, yb).backward()
            optim.step()
        sched.step()
    print(f"top1 {top1(student, x[te], y[te]):.2f}")


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    run(p.parse_args().seed)
