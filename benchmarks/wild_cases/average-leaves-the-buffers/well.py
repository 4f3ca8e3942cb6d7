"""A student and its slow average; the average answers for unlabelled images."""
import argparse
import copy

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


def network():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64, 10),
    )


class SlowCopy:
    def __init__(self, fast, keep):
        self.fast, self.keep = fast, keep
        self.slow = copy.deepcopy(fast).eval()
        for p in self.slow.parameters():
            p.requires_grad_(False)

    @torch.no_grad()
    def follow(self):
        target = dict(self.slow.named_parameters())
        for name, value in self.fast.named_parameters():
            target[name].mul_(self.keep).add_(value, alpha=1 - self.keep)
        for kept, seen in zip(self.slow.buffers(), self.fast.buffers()):
            kept.copy_(seen)

    @torch.no_grad()
    def __call__(self, x):
        return self.slow(x)


def shifted(x):
    dx, dy = torch.randint(-1, 2, (2,)).tolist()
    return x.roll((dx, dy), (2, 3))


def make_step(fast, slow, optimizer, weight):
    def step(labelled, targets, free, ramp):
        fast.train()
        n = len(labelled)
        out = fast(torch.cat([shifted(labelled), shifted(free)]))
        wanted = slow(free).softmax(1)
        consistency = (out[n:].softmax(1) - wanted).square().sum(1).mean()
        loss = F.cross_entropy(out[:n], targets) + ramp * weight * consistency
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        slow.follow()
        return loss.item()

    return step


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--weight", type=float, default=5.0)
    cli.add_argument("--steps", type=int, default=400)
    cli = cli.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(cli.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(902))
    pool, test = p[:1100], p[1100:]
    known = pool[torch.randperm(1100)[:60]]

    fast = network()
    slow = SlowCopy(fast, keep=0.97)
    step = make_step(fast, slow, torch.optim.Adam(fast.parameters(), lr=3e-3), cli.weight)
    for i in range(cli.steps):
        a = known[torch.randint(60, (24,))]
        b = pool[torch.randint(1100, (64,))]
        step(x[a], y[a], x[b], min(1.0, i / 100))
    fast.eval()
    with torch.no_grad():
        print(f"top1 {100 * (fast(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
