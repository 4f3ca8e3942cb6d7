"""Relational distillation from an ensemble: pairwise distances and angles of embeddings, smoothed labels, mean of two teachers."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Net(nn.Module):
    def __init__(self, hidden, dim):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.classify = nn.Linear(dim, 10)

    def forward(self, x):
        z = self.embed(x)
        return z, self.classify(F.relu(z))


def distances(z):
    n = len(z)
    off = ~torch.eye(n, dtype=torch.bool)
    d = (z[:, None] - z[None]).pow(2).sum(-1)[off].clamp_min(1e-12).sqrt()
    return d / d.mean()


def cosines(z):
    z = F.normalize(z - z.mean(0), dim=1)
    return z @ z.t()


def relational(zs, zt):
    return F.smooth_l1_loss(distances(zs), distances(zt)) + 2.0 * F.smooth_l1_loss(cosines(zs), cosines(zt))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x))
    tr, te = p[:1100], p[1100:]

    teachers = nn.ModuleList([Net(96, 32), Net(64, 16)])
    for teacher in teachers:
        opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
        for _ in range(7):
            for b in tr[torch.randperm(len(tr))].split(50):
                opt.zero_grad()
                F.cross_entropy(teacher(x[b])[1], y[b]).backward()
                opt.step()
    teachers.eval().requires_grad_(False)

    student = Net(16, 8)
    opt = torch.optim.Adam(
        [{"params": student.embed.parameters(), "lr": 4e-3}, {"params": student.classify.parameters(), "lr": 8e-3}]
    )
    for epoch in range(12):
        student.train()
        for b in tr[torch.randperm(len(tr))].split(50):
            views = [t(x[b]) for t in teachers]
            mean = torch.stack([F.softmax(logits, 1) for _, logits in views]).mean(0)
            z, out = student(x[b])
            loss = F.cross_entropy(out, y[b], label_smoothing=0.1)
            loss = loss + F.kl_div(F.log_softmax(out, 1), mean, reduction="batchmean")
            loss = loss + sum(relational(z, zt) for zt, _ in views) / len(views)
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    with torch.no_grad():
        print(f"top1 {100 * (student(x[te])[1].argmax(1) == y[te]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
