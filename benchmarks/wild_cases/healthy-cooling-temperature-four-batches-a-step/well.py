"""Gradients of four batches make one step; the temperature falls from 6 to 1; learning rate warms up, then falls."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.utils.data import DataLoader, TensorDataset


def temperature_at(epoch, epochs, hot=6.0, cold=1.0):
    return hot + (cold - hot) * epoch / (epochs - 1)


class SoftLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.T = 1.0
        self.kl = nn.KLDivLoss(reduction="batchmean")

    def forward(self, s, t):
        return self.T**2 * self.kl((s / self.T).log_softmax(-1), (t / self.T).softmax(-1))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--accumulate", type=int, default=4)
    ap.add_argument("--epochs", type=int, default=12)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x))
    train = TensorDataset(x[p[:1152]], y[p[:1152]])
    xt, yt = x[p[1152:]], y[p[1152:]]

    teacher = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    teacher.train()
    for _ in range(7):
        for xb, yb in DataLoader(train, 32, shuffle=True):
            opt.zero_grad()
            F.cross_entropy(teacher(xb), yb).backward()
            opt.step()
    teacher.eval()

    student = nn.Sequential(nn.Linear(64, 14), nn.ReLU(), nn.Linear(14, 10))
    soft = SoftLoss()
    loader = DataLoader(train, batch_size=24, shuffle=True)
    steps = args.epochs * len(loader) // args.accumulate
    opt = torch.optim.Adam(student.parameters(), lr=1e-2)
    warm = steps // 10
    schedule = SequentialLR(
        opt, [LinearLR(opt, 0.1, total_iters=warm), CosineAnnealingLR(opt, steps - warm)], milestones=[warm]
    )
    for epoch in range(args.epochs):
        student.train()
        soft.T = temperature_at(epoch, args.epochs)
        for i, (xb, yb) in enumerate(loader):
            with torch.no_grad():
                t = teacher(xb)
            s = student(xb)
            loss = 0.7 * soft(s, t) + 0.3 * F.cross_entropy(s, yb)
            (loss / args.accumulate).backward()
            if (i + 1) % args.accumulate == 0:
                nn.utils.clip_grad_norm_(student.parameters(), 5.0)
                opt.step()
                opt.zero_grad()
                schedule.step()
    student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(xt).argmax(1) == yt).float().mean().item():.2f}")
        print(f"top1 {100 * (student(xt).argmax(1) == yt).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
