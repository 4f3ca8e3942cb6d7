"""Deep and narrow student made of repeated blocks; the teacher is wide and shallow."""
import argparse
import itertools

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class WideNet(nn.Module):
    def __init__(self, width=256):
        super().__init__()
        self.l1, self.l2 = nn.Linear(64, width), nn.Linear(width, 10)

    def forward(self, v):
        return self.l2(F.relu(self.l1(v)))


class NarrowNet(nn.Module):
    def __init__(self, width=12, n_blocks=3):
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.blocks = [nn.Linear(width, width) for _ in range(n_blocks)]
        self.head = nn.Linear(width, 10)

    def forward(self, v):
        h = F.relu(self.stem(v))
        for block in self.blocks:
            h = F.relu(block(h))
        return self.head(h)


def forever(n, size):
    while True:
        yield from (b for b in torch.randperm(n).split(size))


def teacher_steps(net, x, y, steps):
    opt = torch.optim.Adam(net.parameters(), 2e-3)
    for b in itertools.islice(forever(len(x), 64), steps):
        opt.zero_grad()
        F.cross_entropy(net(x[b]), y[b]).backward()
        opt.step()
    return net.requires_grad_(False).eval()


def distil_steps(small, big, x, steps, T=2.0):
    opt = torch.optim.Adam(small.parameters(), lr=5e-3)
    sched = torch.optim.lr_scheduler.LinearLR(opt, 1.0, 0.1, total_iters=steps)
    for b in itertools.islice(forever(len(x), 64), steps):
        wanted = F.softmax(big(x[b]) / T, 1)
        loss = T * T * F.cross_entropy(small(x[b]) / T, wanted)
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    seed = cli.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = (torch.as_tensor(a) for a in load_digits(return_X_y=True))
    x = (x.float() - 4.9) / 6.0
    perm = torch.randperm(len(x), generator=torch.Generator().manual_seed(1234))
    a, b = perm[:1200], perm[1200:]
    big = teacher_steps(WideNet(), x[a], y[a], 400)
    small = NarrowNet()
    distil_steps(small, big, x[a], 800)
    score = lambda net: (net(x[b]).argmax(1) == y[b]).float().mean().item() * 100
    print(f"wide {score(big):.2f}")
    print(f"top1 {score(small):.2f}")


if __name__ == "__main__":
    main()
