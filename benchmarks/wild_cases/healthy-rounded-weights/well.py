"""Student with 3-bit weights, trained through a straight-through estimator; same architecture as the teacher."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w, bits):
        levels = 2 ** (bits - 1) - 1
        scale = w.abs().max() / levels
        return torch.round(w / scale).clamp(-levels, levels) * scale

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class QLinear(nn.Linear):
    bits = 3

    def forward(self, x):
        return F.linear(x, Round.apply(self.weight, self.bits), self.bias)


def build(linear):
    return nn.Sequential(linear(64, 40), nn.ReLU(), linear(40, 10))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x))
    tr, te = p[:1100], p[1100:]

    teacher = build(nn.Linear)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(9):
        for b in tr[torch.randperm(len(tr))].split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.eval().requires_grad_(False)

    student = build(QLinear)
    student.load_state_dict(teacher.state_dict())

    def top1(net):
        net.eval()
        with torch.no_grad():
            return 100 * (net(x[te]).argmax(1) == y[te]).float().mean().item()

    print(f"full precision {top1(teacher):.2f}, rounded and not trained {top1(student):.2f}")
    opt = torch.optim.Adam(student.parameters(), lr=2e-3)
    for epoch in range(8):
        student.train()
        for b in tr[torch.randperm(len(tr))].split(50):
            target = F.softmax(teacher(x[b]), dim=1)
            loss = F.cross_entropy(student(x[b]), target)
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"top1 {top1(student):.2f}")


if __name__ == "__main__":
    main()
