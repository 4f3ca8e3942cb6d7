"""The student grows: after each stage a residual block is stacked on (its last layer at zero, so that the function stays), and a new optimizer takes over all of its parameters."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Residual(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.up, self.down = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, h):
        return h + self.down(F.silu(self.up(h)))


class Growing(nn.Module):
    def __init__(self, d=20):
        super().__init__()
        self.d = d
        self.stem = nn.Sequential(nn.Linear(64, d), nn.SiLU())
        self.blocks = nn.Sequential()
        self.head = nn.Linear(d, 10)

    def grow(self):
        self.blocks.append(Residual(self.d))

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))


def correct(m, x, y):
    m.eval()
    with torch.no_grad():
        return 100 * (m(x).argmax(1) == y).float().mean().item()


def stage(student, teacher, x, y, epochs, peak, tau=4.0, lam=0.75):
    opt = torch.optim.AdamW(student.parameters(), lr=peak, weight_decay=1e-3)
    per_epoch = -(-len(x) // 60)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=peak, total_steps=epochs * per_epoch)
    for _ in range(epochs):
        student.train()
        for b in torch.randperm(len(x)).split(60):
            with torch.no_grad():
                t = teacher(x[b])
            s = student(x[b])
            kd = F.kl_div(F.log_softmax(s / tau, 1), F.softmax(t / tau, 1), reduction="batchmean")
            loss = lam * tau ** 2 * kd + (1 - lam) * F.cross_entropy(s, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
            sched.step()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--stages", type=int, default=3)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(12))
    x, y, xt, yt = x[p[:1250]], y[p[:1250]], x[p[1250:]], y[p[1250:]]
    teacher = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 10))
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(20):
        teacher.train()
        for b in torch.randperm(len(x)).split(60):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.eval().requires_grad_(False)
    print(f"teacher {correct(teacher, xt, yt):.2f}")
    student = Growing()
    for k in range(a.stages):
        if k:
            student.grow()
        stage(student, teacher, x, y, epochs=8, peak=8e-3 if k == 0 else 3e-3)
        print(f"stage {k} blocks {len(student.blocks)} {correct(student, xt, yt):.2f}")
    print(f"top1 {correct(student, xt, yt):.2f}")


if __name__ == "__main__":
    main()
