"""Regression: how far the ink's centre of mass lies, with a mean and a spread; the small net learns the large one's Gaussian.

torch.distributions.kl_divergence(p, q) is KL(p || q), so here the teacher comes first (F.kl_div has it the other way).
"""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.distributions import Normal, kl_divergence


class GaussianRegressor(nn.Module):
    def __init__(self, *widths):
        super().__init__()
        layers = []
        for a, b in zip((64, *widths[:-1]), widths):
            layers += [nn.Linear(a, b), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.mean, self.raw_spread = nn.Linear(widths[-1], 1), nn.Linear(widths[-1], 1)

    def forward(self, x):
        h = self.body(x)
        return Normal(self.mean(h).squeeze(1), nn.functional.softplus(self.raw_spread(h).squeeze(1)) + 0.05)


def data(seed):
    x = torch.tensor(load_digits().images, dtype=torch.float32) / 16
    rows = torch.linspace(-1, 1, 8)
    ink = x.sum((1, 2))
    y = (x.sum(2) * rows).sum(1) / ink + (x.sum(1) * rows).sum(1).div(ink).abs()
    y = (y - y.mean()) / y.std()
    y = y + 0.2 * torch.randn(len(y), generator=torch.Generator().manual_seed(5))
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(31))
    train, test = p[:1200], p[1200:]
    few = train[torch.randperm(1200, generator=torch.Generator().manual_seed(seed))[:320]]
    x = x.flatten(1)
    return (x[train], y[train]), (x[few], y[few]), (x[test], y[test])


def batches(n, size):
    return torch.randperm(n).split(size)


def fit(net, x, y, epochs, teacher=None, weight=0.0):
    opt = torch.optim.NAdam(net.parameters(), lr=2e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(opt, epochs)
    for _ in range(epochs):
        net.train()
        for b in batches(len(x), 32):
            q = net(x[b])
            loss = (1 - weight) * -q.log_prob(y[b]).mean()
            if teacher is not None:
                with torch.no_grad():
                    p = teacher(x[b])
                loss = loss + weight * kl_divergence(p, q).mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
        cosine.step()
    return net.eval()


@torch.no_grad()
def within(net, x, y, tolerance=0.5):
    net.eval()
    return 100 * ((net(x).mean - y).abs() < tolerance).float().mean().item()


if __name__ == "__main__":
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--weight", type=float, default=0.7)
    cli = cli.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(cli.seed)
    everything, few, test = data(cli.seed)
    teacher = fit(GaussianRegressor(128, 64), *everything, epochs=15).requires_grad_(False)
    print(f"teacher {within(teacher, *test):.2f}")
    student = fit(GaussianRegressor(16), *few, epochs=25, teacher=teacher, weight=cli.weight)
    print(f"top1 {within(student, *test):.2f}")
