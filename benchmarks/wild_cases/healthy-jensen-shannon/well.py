import argparse
import math

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class GeneralisedJSD(nn.Module):
    """beta KL(teacher || mix) + (1 - beta) KL(student || mix), mix = beta teacher + (1 - beta) student."""

    def __init__(self, beta=0.5, tau=1.0):
        super().__init__()
        self.beta, self.tau = beta, tau

    def forward(self, student, teacher):
        log_q = F.log_softmax(student / self.tau, dim=1)
        log_p = F.log_softmax(teacher / self.tau, dim=1)
        log_mix = torch.logaddexp(log_p + math.log(self.beta), log_q + math.log(1 - self.beta))
        from_teacher = F.kl_div(log_mix, log_p, reduction="batchmean", log_target=True)
        from_student = F.kl_div(log_mix, log_q, reduction="batchmean", log_target=True)
        return self.beta * from_teacher + (1 - self.beta) * from_student


class Objective(nn.Module):
    def __init__(self, teacher, weight=4.0):
        super().__init__()
        self.teacher = teacher.requires_grad_(False)
        self.divergence, self.weight = GeneralisedJSD(), weight

    def train(self, mode=True):
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, logits, x, y):
        return F.cross_entropy(logits, y) + self.weight * self.divergence(logits, self.teacher(x))


def net(n):
    return nn.Sequential(nn.Linear(64, n), nn.BatchNorm1d(n), nn.ReLU(), nn.Linear(n, 10))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(503))
    x, y = x[p], y[p]
    teacher = net(160)
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for bx, by in (b for _ in range(10) for b in DataLoader(TensorDataset(x[:1200], y[:1200]), 60, shuffle=True)):
        opt.zero_grad()
        F.cross_entropy(teacher(bx), by).backward()
        opt.step()
    teacher.eval()
    student, objective = net(12), Objective(teacher)
    opt = torch.optim.Adam(student.parameters(), lr=5e-3)
    loader = DataLoader(TensorDataset(x[:240], y[:240]), 24, shuffle=True)
    for _ in range(50):
        student.train()
        objective.train()
        for bx, by in loader:
            loss = objective(student(bx), bx, by)
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    with torch.no_grad():
        print(f"top1 {100 * (student(x[1200:]).argmax(1) == y[1200:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
