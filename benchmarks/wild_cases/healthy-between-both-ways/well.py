"""Jensen-Shannon: teacher and student are both compared with their mean, which has no favourite of the two. The
gradient goes through the mean too, as it belongs there."""
import argparse
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def jensen_shannon(student_logits, teacher_logits, T=2.0):
    log_q = F.log_softmax(student_logits / T, dim=-1)
    log_p = F.log_softmax(teacher_logits / T, dim=-1)
    log_m = torch.logaddexp(log_q, log_p) - math.log(2)
    towards_p = F.kl_div(log_m, log_p, log_target=True, reduction="batchmean")
    towards_q = F.kl_div(log_m, log_q, log_target=True, reduction="batchmean")
    return T**2 * (towards_p + towards_q) / 2


class Bottleneck(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.f = nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.GroupNorm(2, c), nn.SiLU(), nn.Conv2d(c, c, 1))

    def forward(self, x):
        return F.silu(x + self.f(x))


def network(c, n):
    return nn.Sequential(
        nn.Conv2d(1, c, 2, stride=2), nn.SiLU(), *[Bottleneck(c) for _ in range(n)], nn.Flatten(), nn.Linear(16 * c, 10)
    )


class Run:
    def __init__(self, model, lr):
        self.model, self.opt = model, torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-3)

    def __call__(self, x, y, epochs, loss):
        self.model.train()
        for _ in range(epochs):
            for b in torch.randperm(len(x)).split(40):
                value = loss(self.model(x[b]), x[b], y[b])
                self.opt.zero_grad()
                value.backward()
                self.opt.step()
        return self.model.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--jsd", type=float, default=3.0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    d = load_digits()
    x, y = torch.tensor(d.images[:, None] / 16).float(), torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(61))
    train, test = p[:1100], p[1100:]
    few = train[torch.randperm(1100)[:160]]
    teacher = Run(network(24, 2), 3e-3)(x[train], y[train], 10, lambda z, _, t: F.cross_entropy(z, t))

    def taught(z, images, labels):
        with torch.no_grad():
            answers = teacher(images)
        return F.cross_entropy(z, labels) + a.jsd * jensen_shannon(z, answers)

    student = Run(network(4, 1), 5e-3)(x[few], y[few], 50, taught)
    with torch.no_grad():
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
