"""Attention transfer. The maps are fetched with forward hooks."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Net(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(1, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU())
        self.head = nn.Linear(c * 4, 10)

    def forward(self, x):
        x = F.max_pool2d(self.layer1(x), 2)
        x = F.max_pool2d(self.layer2(x), 2)
        return self.head(torch.flatten(x, 1))


def get_activation(store, name):
    def hook(model, input, output):
        store[name] = output
    return hook


def watch(net, layers=("layer1", "layer2")):
    store = {}
    for name in layers:
        getattr(net, name).register_forward_hook(get_activation(store, name))
    return store


def attention(fm):
    return F.normalize(fm.pow(2).mean(1).flatten(1), dim=1)


def at_loss(student_maps, teacher_maps):
    total = 0.0
    for name in student_maps:
        diff = attention(student_maps[name]) - attention(teacher_maps[name])
        total = total + diff.pow(2).sum(1).mean()
    return total


def run_epoch(net, x, y, optimizer, batch=50):
    net.train()
    for ids in torch.randperm(len(x)).split(batch):
        optimizer.zero_grad()
        F.cross_entropy(net(x[ids]), y[ids]).backward()
        optimizer.step()


def run_epoch_at(student, teacher, s_maps, t_maps, x, y, optimizer, beta, batch=50):
    student.train()
    teacher.eval()
    sum_ce = sum_at = 0.0
    for ids in torch.randperm(len(x)).split(batch):
        with torch.no_grad():
            teacher(x[ids])
        logits = student(x[ids])
        ce = F.cross_entropy(logits, y[ids])
        at = at_loss(s_maps, t_maps)
        loss = ce + beta * at
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sum_ce += ce.item()
        sum_at += at.item()
    return sum_ce, sum_at


def score(net, x, y):
    net.eval()
    with torch.no_grad():
        return (net(x).argmax(1) == y).float().mean().item() * 100


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--beta", type=float, default=2.0)
    a = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    d = load_digits()
    x = torch.tensor(d.images, dtype=torch.float32)[:, None] / 16
    x = (x - x.mean()) / x.std()
    y = torch.tensor(d.target)
    o = torch.randperm(len(x), generator=torch.Generator().manual_seed(8))
    xtr, ytr, xte, yte = x[o[:1000]], y[o[:1000]], x[o[1000:]], y[o[1000:]]

    teacher = Net(24)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(8):
        run_epoch(teacher, xtr, ytr, opt)
    print(f"teacher {score(teacher, xte, yte):.2f}")
    teacher.requires_grad_(False)

    student = Net(4)
    s_maps, t_maps = watch(student), watch(teacher)
    opt = torch.optim.Adam(student.parameters(), lr=3e-3)
    for e in range(14):
        ce, at = run_epoch_at(student, teacher, s_maps, t_maps, xtr, ytr, opt, a.beta)
        if e % 4 == 0:
            print(f"epoch {e} ce {ce:.3f} at {at:.3f}")
    print(f"top1 {score(student, xte, yte):.2f}")


if __name__ == "__main__":
    main()
