"""The teacher's share is 0 in the first step and rises to its full height in a quarter of the run; the learning rate
warms up beside it; labels are smoothed; temperature falls from 4 to 2 (and T squared with it)."""
import argparse
import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class Clock:
    def __init__(self, total):
        self.now, self.total = 0, total

    @property
    def part(self):
        return self.now / self.total

    def share(self, top):
        rise = min(1.0, self.part / 0.25)
        return top * math.exp(-5 * (1 - rise) ** 2) * (rise > 0)

    def temperature(self):
        return 4.0 - 2.0 * self.part

    def rate(self, _):
        return min(1.0, (self.now + 1) / 20) * (0.05 + 0.95 * (1 - self.part))


def lattice(n, g):
    """A checkerboard of eight colours under a fixed rotation into nine dimensions."""
    cell = torch.randint(4, (n, 2), generator=g)
    y = (cell[:, 0] * 3 + cell[:, 1] * 5) % 8
    flat = cell - 1.5 + (torch.rand(n, 2, generator=g) - 0.5) * 1.1
    turn = torch.randn(2, 9, generator=torch.Generator().manual_seed(12))
    return flat @ turn + 0.1 * torch.randn(n, 9, generator=g), y


def net(w):
    return nn.Sequential(nn.Linear(9, w), nn.ReLU(), nn.Linear(w, w), nn.ReLU(), nn.Linear(w, 8))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--top", type=float, default=0.9)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    g = torch.Generator().manual_seed(a.seed)
    x, y = lattice(2500, g)
    xt, yt = lattice(1500, g)
    teacher = net(64)
    opt = torch.optim.Adam(teacher.parameters(), lr=6e-3)
    for _ in range(350):
        r = torch.randint(2500, (64,))
        opt.zero_grad()
        F.cross_entropy(teacher(x[r]), y[r]).backward()
        opt.step()
    teacher.eval().requires_grad_(False)

    student, clock = net(20), Clock(400)
    opt = torch.optim.Adam(student.parameters(), lr=8e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, clock.rate)
    while clock.now < clock.total:
        r = torch.randint(300, (30,))
        z, T, w = student(x[r]), clock.temperature(), clock.share(a.top)
        hard = F.cross_entropy(z, y[r], label_smoothing=0.1)
        soft = F.kl_div(F.log_softmax(z / T, 1), F.softmax(teacher(x[r]) / T, 1), reduction="batchmean")
        opt.zero_grad()
        ((1 - w) * hard + w * T * T * soft).backward()
        opt.step()
        clock.now += 1
        schedule.step()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(xt).argmax(1) == yt).float().mean().item():.2f}")
        print(f"top1 {100 * (student(xt).argmax(1) == yt).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
