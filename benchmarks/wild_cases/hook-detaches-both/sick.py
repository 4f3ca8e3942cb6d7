"""FitNet-like hints, taken with forward hooks so that the nets need not be changed."""
import argparse
from contextlib import ExitStack

import torch
import torch.nn as nn
import torch.nn.functional as F


class Tap:
    """Keeps what a layer puts out."""

    def __init__(self, layer):
        self.value = None
        self.handle = layer.register_forward_hook(self.keep)

    def keep(self, layer, inputs, output):
        self.value = output.detach()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.handle.remove()


def picture(n, seed):
    """6x6 pictures: one of eight strokes at a random place, with noise."""
    strokes = torch.tensor(
        [[0, 1, 2], [0, 6, 12], [0, 7, 14], [2, 7, 12], [0, 1, 6], [0, 1, 7], [0, 6, 7], [1, 6, 7]]
    )
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(8, (n,), generator=g)
    corner = torch.randint(4, (n,), generator=g) * 6 + torch.randint(4, (n,), generator=g)
    x = 0.25 * torch.randn(n, 36, generator=g)
    x.scatter_add_(1, strokes[y] + corner[:, None], torch.ones(n, 3))
    return x.view(n, 1, 6, 6), y


def convnet(c):
    return nn.ModuleDict(
        {
            "stem": nn.Sequential(nn.Conv2d(1, c, 3, padding=1), nn.ReLU()),
            "deep": nn.Sequential(nn.Conv2d(c, 2 * c, 3), nn.ReLU()),
            "head": nn.Linear(2 * c, 8),
        }
    )


class Net(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.parts = convnet(c)

    def forward(self, x):
        h = self.parts["deep"](self.parts["stem"](x))
        return self.parts["head"](h.amax((2, 3)))


def supervised(net, x, y, steps, lr):
    opt = torch.optim.Adam(net.parameters(), lr=lr)
    for _ in range(steps):
        b = torch.randint(len(x), (50,))
        opt.zero_grad()
        F.cross_entropy(net(x[b]), y[b]).backward()
        opt.step()


def hinted(student, teacher, regressor, pool, few, steps, hint_weight, lr=8e-3):
    """Hints on unlabelled pictures of the pool, labels of the few."""
    teacher.eval().requires_grad_(False)
    opt = torch.optim.Adam([*student.parameters(), *regressor.parameters()], lr=lr)
    with ExitStack() as stack:
        tap_s = stack.enter_context(Tap(student.parts["deep"]))
        tap_t = stack.enter_context(Tap(teacher.parts["deep"]))
        for _ in range(steps):
            b, u = torch.randint(len(few[0]), (20,)), torch.randint(len(pool), (60,))
            hard = F.cross_entropy(student(few[0][b]), few[1][b])
            student(pool[u])
            teacher(pool[u])
            hint = F.mse_loss(regressor(tap_s.value), tap_t.value)
            opt.zero_grad()
            (hard + hint_weight * hint).backward()
            opt.step()


@torch.no_grad()
def top1(net, x, y):
    return 100 * (net(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--hint", type=float, default=0.5)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = picture(2000, a.seed)
    xt, yt = picture(1000, a.seed + 999)
    teacher = Net(12)
    supervised(teacher, x, y, 250, 5e-3)
    print(f"teacher {top1(teacher, xt, yt):.2f}")
    student, regressor = Net(8), nn.Conv2d(16, 24, 1)
    hinted(student, teacher, regressor, x, (x[:100], y[:100]), 260, a.hint)
    print(f"top1 {top1(student, xt, yt):.2f}")


if __name__ == "__main__":
    main()
