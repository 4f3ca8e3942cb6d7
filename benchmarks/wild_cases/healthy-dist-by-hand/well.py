"""DIST by hand: the student's probabilities shall correlate with the teacher's, by sample and by class."""
import argparse
from dataclasses import dataclass, field

import torch
import torch.nn as nn
from sklearn.datasets import load_digits


def pearson(a, b, eps=1e-8):
    a = a - a.mean(dim=1, keepdim=True)
    b = b - b.mean(dim=1, keepdim=True)
    return nn.functional.cosine_similarity(a, b, dim=1, eps=eps)


class DIST(nn.Module):
    def __init__(self, beta=2.0, gamma=2.0, tau=4.0):
        super().__init__()
        self.beta, self.gamma, self.tau = beta, gamma, tau

    def forward(self, z_s, z_t):
        y_s = (z_s / self.tau).softmax(dim=1)
        y_t = (z_t / self.tau).softmax(dim=1)
        inter = 1 - pearson(y_s, y_t).mean()
        intra = 1 - pearson(y_s.t(), y_t.t()).mean()
        return self.tau**2 * (self.beta * inter + self.gamma * intra)


@dataclass
class Setup:
    seed: int = 0
    dist_weight: float = 0.25
    batch_size: int = 50
    teacher_width: int = 160
    student_width: int = 10
    dist: DIST = field(default_factory=DIST)


def net(width):
    return nn.Sequential(nn.Linear(64, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, 10))


def batches(n, size):
    return torch.randperm(n).split(size)


def teach(model, x, y, setup, epochs=15):
    opt = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(epochs):
        for b in batches(len(x), setup.batch_size):
            opt.zero_grad()
            nn.functional.cross_entropy(model(x[b]), y[b]).backward()
            opt.step()
    model.eval()
    return model


def learn(student, teacher, x, y, setup, epochs=40):
    opt = torch.optim.AdamW(student.parameters(), lr=6e-3)
    steps = epochs * len(batches(len(x), setup.batch_size))
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)
    student.train()
    for _ in range(epochs):
        for b in batches(len(x), setup.batch_size):
            z_s = student(x[b])
            with torch.no_grad():
                z_t = teacher(x[b])
            loss = nn.functional.cross_entropy(z_s, y[b]) + setup.dist_weight * setup.dist(z_s, z_t)
            opt.zero_grad()
            loss.backward()
            opt.step()
            sched.step()
    student.eval()
    return student


def hit_rate(model, x, y):
    with torch.no_grad():
        return 100 * (model(x).argmax(dim=1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--dist-weight", type=float, default=0.25)
    setup = Setup(**vars(ap.parse_args()))
    torch.set_num_threads(1)
    torch.manual_seed(setup.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(83))
    train, test = p[:1200], p[1200:]
    teacher = teach(net(setup.teacher_width), x[train], y[train], setup)
    print(f"teacher {hit_rate(teacher, x[test], y[test]):.2f}")
    few = train[:300]
    student = learn(net(setup.student_width), teacher, x[few], y[few], setup)
    print(f"top1 {hit_rate(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
