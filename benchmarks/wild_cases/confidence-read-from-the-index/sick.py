"""Sixty labelled images, the rest without labels: there the teacher's answer is used where it is sure of it."""
import argparse
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


@dataclass
class Config:
    seed: int = 0
    sure: float = 0.8
    temperature: float = 2.0
    unlabelled_weight: float = 1.0
    steps: int = 600
    lr: float = 3e-3


class SemiDistiller(nn.Module):
    def __init__(self, cfg, student, teacher):
        super().__init__()
        self.cfg, self.student = cfg, student
        self.ask = [teacher]  # in a list: no submodule, so train() and parameters() leave it alone

    def unlabelled_loss(self, s, t):
        """KL to the teacher, over the rows where its largest probability reaches cfg.sure."""
        probs = F.softmax(t, dim=1)
        keep = (probs.max(dim=1)[1] >= self.cfg.sure).float()
        T = self.cfg.temperature
        rows = F.kl_div(F.log_softmax(s / T, dim=1), F.softmax(t / T, dim=1), reduction="none").sum(1) * T * T
        return (rows * keep).sum() / keep.sum().clamp(min=1)

    def forward(self, batch):
        with torch.no_grad():
            t = self.ask[0](batch["unlabelled"]["x"])
        u = self.unlabelled_loss(self.student(batch["unlabelled"]["x"]), t)
        l = F.cross_entropy(self.student(batch["labelled"]["x"]), batch["labelled"]["y"])
        return {"loss": l + self.cfg.unlabelled_weight * u, "labelled": l.detach(), "unlabelled": u.detach()}


def endless(x, y, size):
    while True:
        for b in torch.randperm(len(x)).split(size):
            yield {"x": x[b]} if y is None else {"x": x[b], "y": y[b]}


def model(width):
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def make_teacher(x, y):
    net = model(128)
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(15):
        for b in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            F.cross_entropy(net(x[b]), y[b]).backward()
            opt.step()
    return net.eval().requires_grad_(False)


def load():
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(809))
    part = {"teacher": p[:600], "pool": p[600:1200], "test": p[1200:]}
    return {k: (x[i], y[i]) for k, i in part.items()}


@torch.no_grad()
def top1(net, x, y):
    net.eval()
    return (net(x).argmax(1) == y).float().mean().item() * 100


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    cfg = Config(**vars(ap.parse_args()))
    torch.set_num_threads(1)
    torch.manual_seed(cfg.seed)
    d = load()
    teacher = make_teacher(*d["teacher"])
    print(f"teacher {top1(teacher, *d['test']):.2f}")
    x, y = d["pool"]
    few = torch.randperm(len(x))
    labelled, unlabelled = endless(x[few[:60]], y[few[:60]], 20), endless(x[few[60:]], None, 60)
    distiller = SemiDistiller(cfg, model(24), teacher)
    opt = torch.optim.Adam(distiller.parameters(), lr=cfg.lr)
    distiller.train()
    for step in range(cfg.steps):
        out = distiller({"labelled": next(labelled), "unlabelled": next(unlabelled)})
        opt.zero_grad()
        out["loss"].backward()
        opt.step()
        if step % 150 == 0:
            print(step, {k: round(v.item(), 3) for k, v in out.items()})
    print(f"top1 {top1(distiller.student, *d['test']):.2f}")


if __name__ == "__main__":
    main()
