"""Hints at two depths, taken with forward hooks (FitNets), few labels."""
import argparse

import torch
from torch import nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Tap:
    """Keeps what a module put out last."""

    def __init__(self, module):
        self.value = None
        self.handle = module.register_forward_hook(self._keep)

    def _keep(self, module, args, output):
        self.value = output

    def close(self):
        self.handle.remove()


class Tower(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.block1 = nn.Sequential(nn.Linear(64, w), nn.LayerNorm(w), nn.ReLU())
        self.block2 = nn.Sequential(nn.Linear(w, w), nn.LayerNorm(w), nn.ReLU())
        self.out = nn.Linear(w, 10)

    def forward(self, x):
        return self.out(self.block2(self.block1(x)))


class HintTrainer:
    def __init__(self, teacher, student, t_width, s_width, beta=4.0, lr=3e-3):
        self.teacher, self.student, self.beta = teacher, student, beta
        names = ["block1", "block2"]
        self.t_taps = [Tap(getattr(teacher, n)) for n in names]
        self.s_taps = [Tap(getattr(student, n)) for n in names]
        self.adapters = nn.ModuleList(nn.Linear(s_width, t_width) for _ in names)
        self.opt = torch.optim.Adam([*student.parameters(), *self.adapters.parameters()], lr=lr)

    def hints(self):
        total = 0.0
        for adapter, s, t in zip(self.adapters, self.s_taps, self.t_taps):
            total = total + F.mse_loss(adapter(s.value), t.value)
        return total / len(self.adapters)

    def step(self, x, y, labelled):
        self.student.train()
        with torch.no_grad():
            self.teacher(x)
        logits = self.student(x)
        loss = self.beta * self.hints()
        if labelled.any():
            loss = loss + F.cross_entropy(logits[labelled], y[labelled])
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        return loss.item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--beta", type=float, default=4.0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(31))
    x, y = x[p], y[p]
    top1 = lambda m: 100 * (m.eval()(x[1200:]).argmax(1) == y[1200:]).float().mean().item()
    teacher = Tower(128)
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(15):
        for b in torch.randperm(1200).split(60):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    print(f"teacher {top1(teacher):.2f}")
    teacher.requires_grad_(False)
    student = Tower(24)
    trainer = HintTrainer(teacher, student, 128, 24, a.beta)
    labelled = torch.zeros(1200, dtype=torch.bool)
    labelled[:60] = True
    for _ in range(25):
        for b in torch.randperm(1200).split(60):
            trainer.step(x[b], y[b], labelled[b])
    print(f"top1 {top1(student):.2f}")


if __name__ == "__main__":
    main()
