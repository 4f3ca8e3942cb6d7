"""KD with sharpness-aware minimisation: climb to the worst point near by, take the gradient there, go back, step."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class SAM(torch.optim.Optimizer):
    def __init__(self, params, base, rho=0.05, **kw):
        super().__init__(params, dict(rho=rho, **kw))
        self.base = base(self.param_groups, **kw)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def climb(self):
        norm = torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]).norm()
        for g in self.param_groups:
            for p in g["params"]:
                e = p.grad * (g["rho"] / (norm + 1e-12))
                self.state[p]["home"] = p.detach().clone()
                p.add_(e)
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure=None):
        for g in self.param_groups:
            for p in g["params"]:
                p.copy_(self.state[p].pop("home"))
        self.base.step()
        self.zero_grad()


class Conv(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.a = nn.Conv2d(1, c, 3, padding=1)
        self.b = nn.Conv2d(c, 2 * c, 3, stride=2, padding=1)
        self.fc = nn.Linear(2 * c * 16, 10)

    def forward(self, x):
        return self.fc(F.relu(self.b(F.relu(self.a(x)))).flatten(1))


class Distill(nn.Module):
    def __init__(self, tau=4.0, w=0.8):
        super().__init__()
        self.tau, self.w = tau, w

    def forward(self, s, t, y):
        p, q = F.softmax(t / self.tau, 1), F.log_softmax(s / self.tau, 1)
        soft = (p * (p.clamp_min(1e-12).log() - q)).sum(1).mean() * self.tau ** 2
        return self.w * soft + (1 - self.w) * F.cross_entropy(s, y)


@torch.no_grad()
def evaluate(m, x, y):
    m.eval()
    return (m(x).argmax(1) == y).float().mean().mul(100).item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--epochs", type=int, default=14)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    d = load_digits()
    x = torch.tensor(d.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(77))
    tr, te = p[:1200], p[1200:]
    teacher = Conv(16)
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(10):
        teacher.train()
        for b in tr[torch.randperm(1200)].split(64):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    print(f"teacher {evaluate(teacher, x[te], y[te]):.2f}")
    for q in teacher.parameters():
        q.requires_grad = False

    student, loss_fn = Conv(3), Distill()
    sam = SAM(student.parameters(), torch.optim.SGD, rho=0.05, lr=0.05, momentum=0.9)
    for epoch in range(a.epochs):
        student.train()
        for g in sam.param_groups:
            g["lr"] = 0.05 * (1 - epoch / a.epochs)
        for b in tr[torch.randperm(1200)].split(50):
            with torch.no_grad():
                t = teacher(x[b])
            loss_fn(student(x[b]), t, y[b]).backward()
            sam.climb()
            loss_fn(student(x[b]), t, y[b]).backward()
            sam.step()
    print(f"top1 {evaluate(student, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
