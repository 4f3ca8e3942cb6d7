"""Function matching with unlike inputs: the teacher works on 16x16 images it standardises itself, the student on 8x8 in [0, 1].

Both are given the same shifted image; only then does each side do its own preparation.
"""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Upscaled(nn.Module):
    """A network for larger, standardised images; raw ink of 0..16 goes in."""

    def __init__(self, width=16):
        super().__init__()
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 5, stride=2, padding=2), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        )
        self.head = nn.Linear(32 * width, 10)

    def forward(self, ink):
        ink = (ink - self.mean) / self.std
        return self.head(self.features(F.interpolate(ink, scale_factor=2, mode="bilinear")).flatten(1))


class Small(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3, padding=1)
        self.fc = nn.Linear(8 * width, 10)

    def forward(self, pixels):
        h = F.max_pool2d(F.relu(self.conv1(pixels)), 2)
        return self.fc(F.max_pool2d(F.relu(self.conv2(h)), 2).flatten(1))


def shifted(ink, generator=None):
    """One random shift of at most a pixel, the same for the whole batch."""
    dx, dy = torch.randint(0, 3, (2,), generator=generator).tolist()
    return F.pad(ink, (1, 1, 1, 1))[..., dy:dy + 8, dx:dx + 8]


def train_teacher(ink, y):
    net = Upscaled()
    net.mean.copy_(ink.mean())
    net.std.copy_(ink.std())
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    net.train()
    for _ in range(8):
        for b in torch.randperm(len(ink)).split(64):
            opt.zero_grad()
            F.cross_entropy(net(shifted(ink[b])), y[b]).backward()
            opt.step()
    return net.eval().requires_grad_(False)


def distil_epoch(teacher, student, opt, ink, y, weight, T=3.0):
    student.train()
    for b in torch.randperm(len(ink)).split(32):
        view = shifted(ink[b])
        with torch.no_grad():
            soft = F.softmax(teacher(view) / T, dim=1)
        logits = student(view / 16)
        kd = F.kl_div(F.log_softmax(logits / T, dim=1), soft, reduction="batchmean") * T**2
        loss = weight * kd + (1 - weight) * F.cross_entropy(logits, y[b])
        opt.zero_grad()
        loss.backward()
        opt.step()


@torch.no_grad()
def top1(net, x, y):
    net.eval()
    return 100 * (net(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--weight", type=float, default=0.8)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    ink, y = torch.tensor(d.images[:, None], dtype=torch.float32), torch.tensor(d.target)
    p = torch.randperm(len(ink), generator=torch.Generator().manual_seed(71))
    train, test = p[:1200], p[1200:]
    few = train[torch.randperm(1200, generator=torch.Generator().manual_seed(args.seed))[:320]]
    teacher = train_teacher(ink[train], y[train])
    print(f"teacher {top1(teacher, ink[test], y[test]):.2f}")
    student = Small()
    opt = torch.optim.Adam(student.parameters(), lr=1e-2)
    sched = torch.optim.lr_scheduler.ExponentialLR(opt, 0.92)
    for _ in range(25):
        distil_epoch(teacher, student, opt, ink[few], y[few], args.weight)
        sched.step()
    print(f"top1 {top1(student, ink[test] / 16, y[test]):.2f}")


if __name__ == "__main__":
    main()
