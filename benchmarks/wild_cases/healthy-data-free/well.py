"""Data-free adversarial distillation: a generator seeks images on which the student differs from the teacher.

No image of the training set is used after the teacher is trained. The gradient passes through the frozen teacher.
"""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def classifier(width):
    return nn.Sequential(nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10))


class Generator(nn.Module):
    def __init__(self, z=16):
        super().__init__()
        self.z = z
        self.net = nn.Sequential(nn.Linear(z, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 64), nn.Sigmoid())

    def forward(self, n):
        return self.net(torch.randn(n, self.z))


class BatchNormPrior:
    """Distance of a batch's statistics from those that the teacher's batch norms keep of the real data."""

    def __init__(self, net):
        self.terms = []
        for m in net.modules():
            if isinstance(m, nn.BatchNorm1d):
                m.register_forward_hook(self.look)

    def look(self, m, inputs, _out):
        x = inputs[0]
        self.terms.append(F.mse_loss(x.mean(0), m.running_mean) + F.mse_loss(x.var(0, unbiased=False), m.running_var))

    def collect(self):
        total, self.terms = sum(self.terms), []
        return total


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(5150))
    train, test = p[:1200], p[1200:]
    teacher = classifier(128)
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(12):
        for b in train[torch.randperm(1200)].split(60):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.eval().requires_grad_(False)
    stats = BatchNormPrior(teacher)

    student, gen = classifier(32), Generator()
    opt_s = torch.optim.Adam(student.parameters(), lr=3e-3)
    opt_g = torch.optim.Adam(gen.parameters(), lr=2e-3)
    steps = 650
    sched = [torch.optim.lr_scheduler.CosineAnnealingLR(o, steps, 1e-4) for o in (opt_s, opt_g)]
    for step in range(steps):
        student.train()
        fake = gen(96)
        t = teacher(fake)
        seen = stats.collect()
        sure = F.cross_entropy(t, t.argmax(1).detach())
        share = t.softmax(1).mean(0)
        even = (share * share.clamp(min=1e-8).log()).sum()
        student.requires_grad_(False)
        differ = F.l1_loss(student(fake), t)
        student.requires_grad_(True)
        opt_g.zero_grad()
        (0.5 * sure + 5.0 * even + 5.0 * seen - 0.3 * differ).backward()
        opt_g.step()
        for _ in range(2):
            with torch.no_grad():
                fake = gen(96)
                t = teacher(fake)
                stats.collect()
            loss = F.l1_loss(student(fake), t)
            opt_s.zero_grad()
            loss.backward()
            opt_s.step()
        for s in sched:
            s.step()
    student.eval()
    with torch.no_grad():
        for name, net in (("teacher", teacher), ("top1", student)):
            print(f"{name} {100 * (net(x[test]).argmax(1) == y[test]).float().mean():.2f}")


if __name__ == "__main__":
    main()
