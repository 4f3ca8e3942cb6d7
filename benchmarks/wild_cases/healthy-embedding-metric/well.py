"""Metric learning: triplets for the teacher; the student has the same triplet loss and the teacher's distances (RKD). Judged by 1-NN."""
import argparse

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Embedder(nn.Module):
    def __init__(self, hidden, dim):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, dim))

    def forward(self, x):
        return F.normalize(self.net(x), dim=1)


def pdist(e, eps=1e-12):
    e_square = e.pow(2).sum(dim=1)
    res = (e_square.unsqueeze(1) + e_square.unsqueeze(0) - 2 * e @ e.t()).clamp(min=eps).sqrt()
    off = 1 - torch.eye(len(e))
    return res * off


class BatchAllTriplet(nn.Module):
    """Every triplet of the batch; the mean over those that still break the margin."""

    def __init__(self, margin=0.3):
        super().__init__()
        self.margin = margin

    def forward(self, embeddings, labels):
        d = pdist(embeddings)
        same = labels[:, None] == labels[None]
        pairs = same & ~torch.eye(len(labels), dtype=torch.bool)
        valid = pairs[:, :, None] & ~same[:, None, :]
        losses = F.relu(d[:, :, None] - d[:, None, :] + self.margin)[valid]
        return losses.sum() / (losses > 0).sum().clamp(min=1)


class RkdDistance(nn.Module):
    def forward(self, student, teacher):
        with torch.no_grad():
            t_d = pdist(teacher)
            t_d = t_d / t_d[t_d > 0].mean()
        d = pdist(student)
        d = d / d[d > 0].mean()
        return F.smooth_l1_loss(d, t_d)


class BalancedBatches:
    """Ten classes, as many pictures of each in every batch."""

    def __init__(self, labels, per_class, n_batches, rng):
        self.by_class = [np.flatnonzero(labels == c) for c in range(10)]
        self.per_class, self.n_batches, self.rng = per_class, n_batches, rng

    def __len__(self):
        return self.n_batches

    def __iter__(self):
        for _ in range(self.n_batches):
            yield torch.from_numpy(np.concatenate([self.rng.choice(rows, self.per_class, replace=False) for rows in self.by_class]))


def train(net, x, y, sampler, epochs, lr, teacher=None, ratio=20.0):
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    triplet, rkd = BatchAllTriplet(), RkdDistance()
    if teacher is not None:
        teacher.eval()
    for epoch in range(epochs):
        net.train()
        metric_all, dist_all = [], []
        for rows in sampler:
            e = net(x[rows])
            metric_loss = triplet(e, y[rows])
            loss = metric_loss
            if teacher is not None:
                with torch.no_grad():
                    t_e = teacher(x[rows])
                dist_loss = rkd(e, t_e)
                dist_all.append(dist_loss.item())
                loss = loss + ratio * dist_loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            metric_all.append(metric_loss.item())
        print(f"[{epoch}] triplet {np.mean(metric_all):.4f}" + (f" rkd {np.mean(dist_all):.4f}" if dist_all else ""))


@torch.no_grad()
def recall_at_1(net, x, y, gallery, queries):
    net.eval()
    nearest = (net(x[queries]) @ net(x[gallery]).t()).argmax(1)
    return 100 * (y[gallery][nearest] == y[queries]).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(88))
    x, y = x[p], y[p]
    gallery, queries = torch.arange(1300), torch.arange(1300, len(x))
    sampler = BalancedBatches(y[gallery].numpy(), per_class=6, n_batches=20, rng=np.random.RandomState(args.seed))

    teacher = Embedder(160, 32)
    train(teacher, x, y, sampler, epochs=10, lr=1e-3)
    print(f"teacher {recall_at_1(teacher, x, y, gallery, queries):.2f}")
    student = Embedder(24, 8)
    train(student, x, y, sampler, epochs=16, lr=3e-3, teacher=teacher)
    print(f"top1 {recall_at_1(student, x, y, gallery, queries):.2f}")


if __name__ == "__main__":
    main()
