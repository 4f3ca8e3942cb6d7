"""Attention transfer (Zagoruyko & Komodakis): forward hooks take the maps, the student has few labels and many pictures."""
import argparse
from collections import OrderedDict

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def block(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())


def build(width):
    return nn.Sequential(OrderedDict(
        stem=block(1, width), pool=nn.MaxPool2d(2), deep=block(width, 2 * width),
        flat=nn.Flatten(), head=nn.Linear(32 * width, 10)))


class Tap:
    """Keeps what the named layers gave in the last forward pass."""

    def __init__(self, net, names):
        self.maps = {}
        for name in names:
            net.get_submodule(name).register_forward_hook(self.hook(name))

    def hook(self, name):
        def keep(module, inputs, output):
            self.maps[name] = output
        return keep


def attention(a):
    return F.normalize(a.pow(2).mean(1).flatten(1), dim=1)


def transfer(student_tap, teacher_tap):
    return sum((attention(student_tap.maps[n]) - attention(teacher_tap.maps[n])).pow(2).sum(1).mean() for n in student_tap.maps)


def batches(index, size):
    yield from index[torch.randperm(len(index))].split(size)


def data():
    x, y = load_digits(return_X_y=True)
    x = torch.as_tensor(x).float().reshape(-1, 1, 8, 8) / 16
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    return x, torch.as_tensor(y), p[:1200], p[1200:]


def score(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100.0 * (net(x).argmax(1) == y).float().mean().item()


def train_teacher(net, x, y, idx):
    opt = torch.optim.Adam(net.parameters(), 3e-3)
    net.train()
    for _ in range(8):
        for b in batches(idx, 60):
            opt.zero_grad()
            F.cross_entropy(net(x[b]), y[b]).backward()
            opt.step()
    return net.eval().requires_grad_(False)


def distil(student, teacher, x, y, labelled, pool, beta=4.0, epochs=14):
    s_tap, t_tap = Tap(student, ["stem", "deep"]), Tap(teacher, ["stem", "deep"])
    opt = torch.optim.Adam(student.parameters(), 4e-3)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, epochs)
    for _ in range(epochs):
        student.train()
        for b in batches(pool, 60):
            few = labelled[torch.randint(len(labelled), (30,))]
            both = torch.cat([x[few], x[b]])
            logits = student(both)
            with torch.no_grad():
                teacher(both)
            loss = F.cross_entropy(logits[:30], y[few]) + beta * transfer(s_tap, t_tap)
            opt.zero_grad(set_to_none=True)
            loss.backward()
            opt.step()
        sched.step()
    return student


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y, train, test = data()
    teacher = train_teacher(build(16), x, y, train)
    print(f"teacher {score(teacher, x[test], y[test]):.2f}")
    student = distil(build(4), teacher, x, y, train[:120], train)
    print(f"top1 {score(student, x[test], y[test]):.2f}")
