"""Without data: a generator looks for inputs on which student and teacher differ, the student closes the gap.
No label and no image is used after the teacher is trained. Gradients have to pass THROUGH the teacher to the generator."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Generator(nn.Module):
    def __init__(self, z=16):
        super().__init__()
        self.z = z
        self.net = nn.Sequential(nn.Linear(z, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 64), nn.Sigmoid())

    def forward(self, n):
        return self.net(torch.randn(n, self.z))


def mlp(width, drop=0.0):
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Dropout(drop), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def gap(s, t):
    """mean absolute difference of centred logits"""
    return F.l1_loss(s - s.mean(1, keepdim=True), t - t.mean(1, keepdim=True))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--rounds", type=int, default=300)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    train, test = p[:1100], p[1100:]

    teacher = mlp(64, 0.2)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(12):
        for b in train[torch.randperm(1100)].split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.eval()
    for q in teacher.parameters():
        q.requires_grad_(False)

    student, gen = mlp(48), Generator()
    opt_s = torch.optim.Adam(student.parameters(), lr=3e-3)
    opt_g = torch.optim.Adam(gen.parameters(), lr=1e-3)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt_s, a.rounds)
    for _ in range(a.rounds):
        for _ in range(4):
            fake = gen(64).detach()
            loss = gap(student(fake), teacher(fake))
            opt_s.zero_grad()
            loss.backward()
            opt_s.step()
        fake = gen(64)
        t = teacher(fake)  # no no_grad: the generator learns through it
        spread = t.softmax(1).mean(0)
        balance = (spread * spread.clamp_min(1e-8).log()).sum()
        loss = -gap(student(fake), t) + 2 * balance
        opt_g.zero_grad()
        loss.backward()
        opt_g.step()
        sched.step()
    student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[test]).argmax(1) == y[test]).float().mean():.2f}")
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean():.2f}")


if __name__ == "__main__":
    main()
