"""Sobolev training: the student also matches the slope of the teacher's leading log-probability with respect to the pixels.

The teacher must therefore be run with grad enabled (for the input); its own weights are frozen and get none.
"""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def net(hidden):
    return nn.Sequential(nn.Linear(64, hidden), nn.Softplus(), nn.Linear(hidden, hidden), nn.Softplus(), nn.Linear(hidden, 10))


def slope(logits, x, winner, create_graph):
    chosen = F.log_softmax(logits, 1).gather(1, winner[:, None]).sum()
    (g,) = torch.autograd.grad(chosen, x, create_graph=create_graph)
    return g


class SobolevDistiller:
    def __init__(self, teacher, student, kd=0.6, sobolev=0.3, T=2.0):
        self.teacher = teacher.eval().requires_grad_(False)
        self.student, self.kd, self.sobolev, self.T = student, kd, sobolev, T

    def losses(self, x, y):
        x = x.clone().requires_grad_(True)
        t = self.teacher(x)
        winner = t.argmax(1)
        t_slope = slope(t, x, winner, create_graph=False).detach()
        t = t.detach()
        s = self.student(x)
        s_slope = slope(s, x, winner, create_graph=True)
        soft = F.kl_div(F.log_softmax(s / self.T, 1), F.softmax(t / self.T, 1), reduction="batchmean") * self.T**2
        return {
            "ce": (1 - self.kd) * F.cross_entropy(s, y),
            "kd": self.kd * soft,
            "slope": self.sobolev * (1 - F.cosine_similarity(s_slope, t_slope, dim=1)).mean(),
        }

    def fit(self, x, y, epochs, lr):
        opt = torch.optim.Adam(self.student.parameters(), lr=lr)
        for _ in range(epochs):
            self.student.train()
            for b in torch.randperm(len(x)).split(32):
                opt.zero_grad()
                sum(self.losses(x[b], y[b]).values()).backward()
                opt.step()
        return self.student


def train_teacher(x, y):
    teacher = net(128)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(12):
        for b in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    return teacher


@torch.no_grad()
def top1(model, x, y):
    model.eval()
    return 100 * (model(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--kd", type=float, default=0.6)
    ap.add_argument("--sobolev", type=float, default=0.3)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 8 - 1, dtype=torch.float32), torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(27))
    pool, test = p[:1200], p[1200:]
    few = pool[torch.randperm(1200, generator=torch.Generator().manual_seed(args.seed))[:320]]
    teacher = train_teacher(x[pool], y[pool])
    print(f"teacher {top1(teacher, x[test], y[test]):.2f}")
    student = SobolevDistiller(teacher, net(20), args.kd, args.sobolev).fit(x[few], y[few], 20, 5e-3)
    print(f"top1 {top1(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
