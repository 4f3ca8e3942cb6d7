"""Three teachers, each with its own preprocessing; their softened probabilities are averaged, then a logarithm is taken."""
import argparse
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Member(nn.Module):
    """A network that knows how its inputs have to look."""

    def __init__(self, net, preprocess):
        super().__init__()
        self.net, self.preprocess = net, preprocess

    def forward(self, raw):
        return self.net(self.preprocess(raw))


class Ensemble(nn.Module):
    def __init__(self, members):
        super().__init__()
        self.members = nn.ModuleList(members)

    @torch.no_grad()
    def log_mean(self, raw, T):
        logs = torch.stack([F.log_softmax(m(raw) / T, dim=1) for m in self.members])
        return torch.logsumexp(logs, dim=0) - math.log(len(self.members))


def dense(width, drop=0.0):
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Dropout(drop), nn.Linear(width, 10))


def train(net, raw, y, epochs, lr, loss_fn):
    opt = torch.optim.Adam(net.parameters(), lr=lr)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(raw)).split(32):
            loss = loss_fn(net(raw[rows]), raw[rows], y[rows])
            opt.zero_grad()
            loss.backward()
            opt.step()
    return net.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--T", type=float, default=4.0)
    ap.add_argument("--kd", type=float, default=0.8)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    raw, y = load_digits(return_X_y=True)
    raw, y = torch.tensor(raw).float(), torch.tensor(y)
    p = torch.randperm(len(raw), generator=torch.Generator().manual_seed(1))
    train_rows, test = p[:1100], p[1100:]
    mean, std = raw[train_rows].mean(0), raw[train_rows].std(0).clamp_min(1.0)

    looks = [lambda r: r / 16, lambda r: (r - mean) / std, lambda r: r / 8 - 1]
    teachers = []
    for k, look in enumerate(looks):
        member = Member(dense(64 + 32 * k, 0.2), look)
        teachers.append(train(member, raw[train_rows], y[train_rows], 10, 3e-3, lambda out, _, t: F.cross_entropy(out, t)))
    ensemble = Ensemble(teachers).eval().requires_grad_(False)

    def loss_fn(out, r, t):
        target = ensemble.log_mean(r, a.T)
        soft = F.kl_div(F.log_softmax(out / a.T, 1), target, reduction="batchmean", log_target=True)
        return a.kd * a.T**2 * soft + (1 - a.kd) * F.cross_entropy(out, t)

    few = train_rows[torch.randperm(1100)[:300]]
    student = train(Member(dense(12), looks[0]), raw[few], y[few], 40, 5e-3, loss_fn)
    with torch.no_grad():
        print(f"teachers {100 * (ensemble.log_mean(raw[test], 1.0).argmax(1) == y[test]).float().mean():.2f}")
        print(f"top1 {100 * (student(raw[test]).argmax(1) == y[test]).float().mean():.2f}")


if __name__ == "__main__":
    main()
