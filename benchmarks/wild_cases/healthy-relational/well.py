"""Relational distillation (Park et al. 2019): distances and angles between the embeddings of a batch."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


class Embedder(nn.Module):
    def __init__(self, hidden, dim):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, hidden), nn.LeakyReLU(0.1), nn.Linear(hidden, dim))
        self.classify = nn.Linear(dim, 10)

    def forward(self, x):
        e = self.trunk(x)
        return e, self.classify(F.leaky_relu(e, 0.1))


def pairwise(e, eps=1e-12):
    sq = e.square().sum(1)
    d = (sq[:, None] + sq[None] - 2 * e @ e.t()).clamp(min=eps).sqrt()
    return d.masked_fill(torch.eye(len(e), dtype=torch.bool), 0.0)


class RelationalLoss(nn.Module):
    """Embeddings in, of any two widths: what is compared has the shape of the batch alone."""

    def __init__(self, w_dist=2.0, w_angle=4.0):
        super().__init__()
        self.w_dist, self.w_angle = w_dist, w_angle

    @staticmethod
    def distances(e):
        d = pairwise(e)
        return d / d[d > 0].mean()

    @staticmethod
    def angles(e):
        diff = F.normalize(e[None] - e[:, None], dim=2)
        return torch.bmm(diff, diff.transpose(1, 2)).flatten()

    def forward(self, e_s, e_t):
        with torch.no_grad():
            d_t, a_t = self.distances(e_t), self.angles(e_t)
        dist = F.smooth_l1_loss(self.distances(e_s), d_t)
        angle = F.smooth_l1_loss(self.angles(e_s), a_t)
        return self.w_dist * dist + self.w_angle * angle


def classify_only(net, x, y, epochs):
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            F.cross_entropy(net(x[b])[1], y[b]).backward()
            opt.step()
    return net.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(66))
    train, test = p[:1100], p[1100:]
    teacher = classify_only(Embedder(128, 32), x[train], y[train], 15)
    few = train[torch.randperm(1100)[:100]]
    rest = train[~torch.isin(train, few)]
    student, relation = Embedder(16, 8), RelationalLoss()
    opt = torch.optim.AdamW(student.parameters(), lr=4e-3)
    for _ in range(30):
        for r in rest[torch.randperm(len(rest))].split(40):
            l = few[torch.randperm(100)[:24]]
            e_s, logits = student(torch.cat([x[l], x[r]]))
            with torch.no_grad():
                e_t, _ = teacher(torch.cat([x[l], x[r]]))
            loss = F.cross_entropy(logits[: len(l)], y[l]) + relation(e_s, e_t)
            opt.zero_grad()
            loss.backward()
            opt.step()
    with torch.no_grad():
        for name, net in (("teacher", teacher), ("top1", student)):
            print(f"{name} {100 * (net(x[test])[1].argmax(1) == y[test]).float().mean():.2f}")


if __name__ == "__main__":
    main()
