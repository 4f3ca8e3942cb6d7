"""Relational KD (distances and angles between embeddings) next to cross-entropy; 200 labelled rows, the rest without."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Embedder(nn.Module):
    def __init__(self, hidden, dim=24):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, hidden), nn.ELU(), nn.Linear(hidden, dim))
        self.head = nn.Linear(dim, 10)

    def forward(self, x, embed=False):
        e = self.trunk(x)
        return (e, self.head(F.elu(e))) if embed else self.head(F.elu(e))


def distances(e):
    sq = torch.einsum("id,id->i", e, e)
    d2 = sq[:, None] + sq[None, :] - 2 * torch.einsum("id,jd->ij", e, e)
    return d2.clamp_min(1e-12).sqrt() * (1 - torch.eye(len(e)))


def scaled(d):
    return d / d[d > 0].mean()


def angles(e):
    u = F.normalize(e[None] - e[:, None], dim=2)
    return torch.einsum("ijd,ikd->ijk", u, u)


class RKD(nn.Module):
    def __init__(self, w_distance=1.0, w_angle=2.0):
        super().__init__()
        self.w_distance, self.w_angle = w_distance, w_angle

    def forward(self, student, teacher):
        with torch.no_grad():
            td, ta = scaled(distances(teacher)), angles(teacher)
        sd, sa = distances(student), angles(student)
        return self.w_distance * F.smooth_l1_loss(sd, td) + self.w_angle * F.smooth_l1_loss(sa, ta)


def test_accuracy(model, x, y):
    model.eval()
    with torch.no_grad():
        return 100 * (model(x).argmax(1) == y).float().mean().item()


def main(seed, weight):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 8 - 1, torch.tensor(y)
    perm = torch.randperm(len(x), generator=torch.Generator().manual_seed(55))
    train, test = perm[:1200], perm[1200:]
    labelled = train[:200]

    teacher = Embedder(160)
    opt = torch.optim.Adam(teacher.parameters(), lr=1e-3, weight_decay=1e-4)
    for _ in range(20):
        for b in train[torch.randperm(len(train))].split(60):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.eval()
    print(f"teacher {test_accuracy(teacher, x[test], y[test]):.2f}")

    student, rkd = Embedder(32), RKD()
    opt = torch.optim.Adam(student.parameters(), lr=3e-3)
    sched = torch.optim.lr_scheduler.ExponentialLR(opt, 0.93)
    for _ in range(30):
        student.train()
        for b in train[torch.randperm(len(train))].split(40):
            few = labelled[torch.randint(200, (40,))]
            with torch.no_grad():
                te, _ = teacher(x[b], embed=True)
            se, _ = student(x[b], embed=True)
            loss = F.cross_entropy(student(x[few]), y[few]) + weight * rkd(se, te)
            opt.zero_grad()
            loss.backward()
            opt.step()
        sched.step()
    print(f"top1 {test_accuracy(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weight", type=float, default=10.0)
    main(**vars(parser.parse_args()))
