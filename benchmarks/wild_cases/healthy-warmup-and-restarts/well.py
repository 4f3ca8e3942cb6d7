"""A long warm-up from next to nothing, then cosine restarts, all counted in steps."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LinearLR, SequentialLR


class DistillJob:
    def __init__(self, teacher, student, warmup=40, period=60, lr=8e-3):
        self.teacher, self.student = teacher, student
        self.opt = torch.optim.AdamW(student.parameters(), lr=lr, weight_decay=0.01)
        self.sched = SequentialLR(
            self.opt,
            [LinearLR(self.opt, start_factor=1e-4, total_iters=warmup), CosineAnnealingWarmRestarts(self.opt, period)],
            milestones=[warmup],
        )

    def loss(self, s, t, y, T=2.0):
        p = F.softmax(t / T, dim=1)
        return 0.6 * T * T * F.kl_div(F.log_softmax(s / T, dim=1), p, reduction="batchmean") + 0.4 * F.cross_entropy(s, y)

    def run(self, x, y, steps, batch=40):
        self.teacher.eval()
        self.student.train()
        for _ in range(steps):
            i = torch.randint(len(x), (batch,))
            with torch.no_grad():
                t = self.teacher(x[i])
            loss = self.loss(self.student(x[i]), t, y[i])
            self.opt.zero_grad(set_to_none=True)
            loss.backward()
            self.opt.step()
            self.sched.step()
        self.student.eval()


def mlp(h):
    return nn.Sequential(nn.Linear(64, h), nn.LayerNorm(h), nn.GELU(), nn.Linear(h, 10))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(303))
    tr, te = p[:1000], p[1000:]
    teacher = mlp(128)
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(12):
        for i in tr[torch.randperm(1000)].split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[i]), y[i]).backward()
            opt.step()
    job = DistillJob(teacher, mlp(12))
    few = tr[:250]
    job.run(x[few], y[few], steps=280)
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[te]).argmax(1) == y[te]).float().mean().item():.2f}")
        print(f"top1 {100 * (job.student(x[te]).argmax(1) == y[te]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
