"""Logits are standardised for each image before the softmax: only their shape is taught, not their range."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def standardise(z, eps=1e-7):
    return (z - z.mean(-1, keepdim=True)) / (z.std(-1, keepdim=True) + eps)


def logit_std_kd(student_logits, teacher_logits, labels, tau=2.0, ce_weight=0.1, kd_weight=2.0):
    s, t = standardise(student_logits) / tau, standardise(teacher_logits) / tau
    kd = F.kl_div(F.log_softmax(s, dim=1), F.softmax(t, dim=1), reduction="none").sum(1).mean()
    return ce_weight * F.cross_entropy(student_logits, labels) + kd_weight * tau**2 * kd


class Net(nn.Module):
    def __init__(self, d, n):
        super().__init__()
        self.first = nn.Linear(64, d)
        self.rest = nn.ModuleList(nn.Linear(d, d) for _ in range(n))
        self.last = nn.Linear(d, 10)

    def forward(self, x):
        x = self.first(x).relu()
        for layer in self.rest:
            x = x + layer(x).relu()
        return self.last(x)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    opt = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(opt.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(307))
    x, y = x[p], y[p]
    nets = {"teacher": Net(96, 2), "student": Net(12, 1)}

    def epoch(net, optimizer, n, teacher=None):
        net.train()
        for i in torch.randperm(n).split(40):
            z = net(x[i])
            if teacher is None:
                loss = F.cross_entropy(z, y[i])
            else:
                with torch.no_grad():
                    loss_t = teacher(x[i])
                loss = logit_std_kd(z, loss_t, y[i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    optimizer = torch.optim.Adam(nets["teacher"].parameters(), lr=2e-3)
    for _ in range(10):
        epoch(nets["teacher"], optimizer, 1000)
    nets["teacher"].eval()
    optimizer = torch.optim.SGD(nets["student"].parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[14, 18], gamma=0.1)
    for _ in range(20):
        epoch(nets["student"], optimizer, 400, nets["teacher"])
        scheduler.step()
    nets["student"].eval()
    with torch.no_grad():
        acc = {k: 100 * (n(x[1000:]).argmax(1) == y[1000:]).float().mean().item() for k, n in nets.items()}
    print(f"teacher {acc['teacher']:.2f}")
    print(f"top1 {acc['student']:.2f}")


if __name__ == "__main__":
    main()
