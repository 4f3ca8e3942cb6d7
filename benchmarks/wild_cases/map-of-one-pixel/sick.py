"""Attention transfer between maps of one layer of each net."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


class SmallNet(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1), nn.ReLU())
        self.stage3 = nn.Sequential(nn.Conv2d(2 * channels, 4 * channels, 3, padding=1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * channels, 10)

    def forward(self, x):
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(self.pool(x).flatten(1))


def attention(features):
    return F.normalize(features.pow(2).mean(1).flatten(1), dim=1)


class AttentionTransfer:
    def __init__(self, teacher, student, layer):
        self.maps = {}
        for name, net in (("t", teacher), ("s", student)):
            getattr(net, layer).register_forward_hook(self.keep(name))

    def keep(self, name):
        def hook(module, args, output):
            self.maps[name] = output

        return hook

    def __call__(self):
        return (attention(self.maps["s"]) - attention(self.maps["t"])).pow(2).sum(1).mean()


def fit(net, x, y, epochs, lr, teacher=None, beta=1.0):
    opt = torch.optim.Adam(net.parameters(), lr=lr)
    if teacher is not None:
        transfer = AttentionTransfer(teacher, net, layer="pool")
    net.train()
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(40):
            loss = F.cross_entropy(net(x[b]), y[b])
            if teacher is not None:
                with torch.no_grad():
                    teacher(x[b])
                loss = loss + beta * transfer()
            opt.zero_grad()
            loss.backward()
            opt.step()
    return net.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    d = load_digits()
    x, y = torch.tensor(d.images[:, None] / 16, dtype=torch.float32), torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(117))
    train, test = p[:1200], p[1200:]
    teacher = fit(SmallNet(12), x[train], y[train], 10, 1e-2)
    few = train[torch.randperm(1200)[:300]]
    student = fit(SmallNet(4), x[few], y[few], 40, 1e-2, teacher)
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
