"""Small batches, gathered: four of them make one step. Each part is weighed by its share of the images of its group
(the last group is smaller), the norm is clipped once the group is complete, and the schedule counts steps."""
import argparse
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Mixer(nn.Module):
    """Rows of the image are tokens."""

    def __init__(self, dim, blocks):
        super().__init__()
        self.embed = nn.Linear(8, dim)
        self.tokens = nn.ModuleList(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(blocks))
        self.channels = nn.ModuleList(nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)) for _ in range(blocks))
        self.head = nn.Linear(8 * dim, 10)

    def forward(self, x):
        h = self.embed(x)
        for t, c in zip(self.tokens, self.channels):
            h = h + t(h.transpose(1, 2)).transpose(1, 2)
            h = h + c(h)
        return self.head(h.flatten(1))


def grouped(n, micro, gather):
    parts = torch.randperm(n).split(micro)
    return [parts[i : i + gather] for i in range(0, len(parts), gather)]


def loss_sum(z, t, y, alpha, T):
    """Summed over the images of the part; whoever calls divides by the images of the group."""
    kd = F.kl_div(F.log_softmax(z / T, 1), F.softmax(t / T, 1), reduction="sum") * T**2
    return alpha * kd + (1 - alpha) * F.cross_entropy(z, y, reduction="sum")


def distil(student, teacher, x, y, alpha, epochs=40, micro=10, gather=4, lr=8e-3, T=3.0):
    per_epoch = math.ceil(math.ceil(len(x) / micro) / gather)
    opt = torch.optim.AdamW(student.parameters(), lr=lr, weight_decay=0.01)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=lr, total_steps=epochs * per_epoch)
    student.train()
    for _ in range(epochs):
        for group in grouped(len(x), micro, gather):
            images = sum(len(b) for b in group)
            for b in group:
                with torch.no_grad():
                    t = teacher(x[b])
                (loss_sum(student(x[b]), t, y[b], alpha, T) / images).backward()
            nn.utils.clip_grad_norm_(student.parameters(), 10.0)
            opt.step()
            sched.step()
            opt.zero_grad()
    return student.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--alpha", type=float, default=0.8)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    d = load_digits()
    x, y = torch.tensor(d.images / 16).float(), torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(6))
    train, test = p[:1100], p[1100:]
    few = train[torch.randperm(1100)[:190]]
    teacher = Mixer(24, 2)
    opt = torch.optim.AdamW(teacher.parameters(), lr=3e-3)
    for _ in range(14):
        for b in train[torch.randperm(1100)].split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.eval().requires_grad_(False)
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")
    student = distil(Mixer(6, 1), teacher, x[few], y[few], a.alpha)
    with torch.no_grad():
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
