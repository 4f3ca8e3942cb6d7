"""Attention transfer (Zagoruyko & Komodakis 2017); maps are caught by forward hooks, both nets stay as they are."""
import argparse
import contextlib

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def stage(i, o, pool):
    mods = [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()]
    return nn.Sequential(*mods, nn.MaxPool2d(2)) if pool else nn.Sequential(*mods)


class ConvNet(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.stage1, self.stage2 = stage(1, w, False), stage(w, 2 * w, True)
        self.top = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * w, 10))

    def forward(self, x):
        return self.top(self.stage2(self.stage1(x)))


@contextlib.contextmanager
def caught(net, names):
    maps, handles = {}, []
    for name in names:
        module = net.get_submodule(name)
        handles.append(module.register_forward_hook(lambda _m, _i, out, name=name: maps.__setitem__(name, out)))
    try:
        yield maps
    finally:
        for h in handles:
            h.remove()


def attention(fmap):
    return F.normalize(fmap.square().mean(1).flatten(1), dim=1)


def transfer(mine, theirs):
    return sum((attention(mine[k]) - attention(theirs[k].detach())).square().mean() for k in mine)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--beta", type=float, default=20.0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    d = load_digits()
    x, y = torch.tensor(d.images).float()[:, None] / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(909))
    train, test = p[:1000], p[1000:]
    big, small = ConvNet(16), ConvNet(4)
    opt = torch.optim.Adam(big.parameters(), lr=3e-3)
    for _ in range(8):
        for b in train[torch.randperm(1000)].split(50):
            opt.zero_grad()
            F.cross_entropy(big(x[b]), y[b]).backward()
            opt.step()
    big.eval()

    few = train[torch.randperm(1000)[:150]]
    opt = torch.optim.SGD(small.parameters(), lr=0.03, momentum=0.9, nesterov=True, weight_decay=5e-4)
    layers = ("stage1", "stage2")
    with caught(big, layers) as theirs, caught(small, layers) as mine:
        for epoch in range(30):
            small.train()
            for b in few[torch.randperm(150)].split(25):
                with torch.no_grad():
                    big(x[b])
                loss = F.cross_entropy(small(x[b]), y[b]) + a.beta * transfer(mine, theirs)
                opt.zero_grad()
                loss.backward()
                opt.step()
    small.eval()
    with torch.no_grad():
        for name, net in (("teacher", big), ("top1", small)):
            print(f"{name} {100 * (net(x[test]).argmax(1) == y[test]).float().mean():.2f}")


if __name__ == "__main__":
    main()
