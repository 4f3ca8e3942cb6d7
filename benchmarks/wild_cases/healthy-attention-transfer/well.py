import argparse
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


class Stages(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(1, c, 3, padding=1), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(c, 2 * c, 3, stride=2, padding=1), nn.ReLU())
        self.top = nn.Linear(32 * c, 10)

    def forward(self, x):
        return self.top(self.b(self.a(x)).flatten(1))


@contextmanager
def maps_of(net, names):
    """Attention maps of the named stages, filled at each forward pass."""
    kept = {}

    def keep(name):
        def hook(module, args, out):
            kept[name] = F.normalize(out.square().mean(dim=1).flatten(1), dim=1)

        return hook

    handles = [net.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield kept
    finally:
        for h in handles:
            h.remove()


def train_student(teacher, student, x, y, epochs=40, beta=4.0, stages=("a", "b")):
    teacher.eval()
    student.train()
    opt = torch.optim.Adam(student.parameters(), lr=5e-3)
    with maps_of(teacher, stages) as of_teacher, maps_of(student, stages) as of_student:
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(32):
                with torch.no_grad():
                    teacher(x[rows])
                loss = F.cross_entropy(student(x[rows]), y[rows])
                for stage in stages:
                    loss = loss + beta / 2 * (of_student[stage] - of_teacher[stage]).square().sum(1).mean()
                opt.zero_grad()
                loss.backward()
                opt.step()
    return student.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    d = load_digits()
    x, y = torch.tensor(d.images[:, None] / 16, dtype=torch.float32), torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(507))
    train, test = p[:1200], p[1200:]
    teacher = Stages(12)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(9):
        for b in train[torch.randperm(1200)].split(60):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    few = train[torch.randperm(1200)[:256]]
    student = train_student(teacher, Stages(3), x[few], y[few])
    with torch.no_grad():
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
