"""Distillation in bfloat16 on the CPU."""
import argparse
import contextlib

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class MLP(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.a = nn.Linear(64, hidden)
        self.b = nn.Linear(hidden, hidden)
        self.c = nn.Linear(hidden, 10)

    def forward(self, x):
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


def kd_loss(student_logits, teacher_logits, labels, T=4.0, alpha=0.9):
    s, t = student_logits.float(), teacher_logits.float()
    kl = F.kl_div(F.log_softmax(s / T, 1), F.softmax(t / T, 1), reduction="batchmean")
    return alpha * T * T * kl + (1 - alpha) * F.cross_entropy(s, labels)


class Runner:
    def __init__(self, args):
        self.args = args
        torch.manual_seed(args.seed)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x).float() / 16, torch.tensor(y)
        p = torch.randperm(len(x), generator=torch.Generator().manual_seed(33))
        self.x, self.y, self.xt, self.yt = x[p[:1200]], y[p[:1200]], x[p[1200:]], y[p[1200:]]

    def autocast(self):
        return torch.autocast("cpu", dtype=torch.bfloat16)

    def teacher(self):
        net = MLP(96)
        opt = torch.optim.Adam(net.parameters(), lr=2e-3)
        for _ in range(10):
            for i in torch.randperm(len(self.x)).split(64):
                opt.zero_grad()
                F.cross_entropy(net(self.x[i]), self.y[i]).backward()
                opt.step()
        return net.eval().requires_grad_(False)

    def student(self, teacher):
        net = MLP(24)
        opt = torch.optim.SGD(net.parameters(), lr=self.args.lr, momentum=0.9)
        net.train()
        for _ in range(self.args.epochs):
            for i in torch.randperm(400).split(40):
                x, y = self.x[i], self.y[i]
                with self.autocast():
                    t = teacher(x)
                    s = net(x)
                loss = kd_loss(s, t, y)
                opt.zero_grad()
                loss.backward()
                opt.step()
        return net.eval()

    def accuracy(self, net):
        dtype = next(net.parameters()).dtype
        with torch.no_grad():
            return 100 * (net(self.xt.to(dtype)).argmax(1) == self.yt).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--lr", type=float, default=4e-3)
    ap.add_argument("--epochs", type=int, default=60)
    args = ap.parse_args()
    torch.set_num_threads(1)
    runner = Runner(args)
    teacher = runner.teacher()
    print(f"teacher {runner.accuracy(teacher):.2f}")
    print(f"top1 {runner.accuracy(runner.student(teacher)):.2f}")


if __name__ == "__main__":
    main()
