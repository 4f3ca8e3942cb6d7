"""A student pretrained on another task (four classes) gets a head for the new one (nine) and is distilled."""
import argparse
from types import SimpleNamespace

import torch
import torch.nn as nn
import torch.nn.functional as F


def world(classes, seed, dim=18):
    mu = torch.randn(classes, dim, generator=torch.Generator().manual_seed(seed)) * 0.75
    bend = torch.randn(dim, dim, generator=torch.Generator().manual_seed(3)) / dim**0.5

    def draw(n, g):
        y = torch.randint(classes, (n,), generator=g)
        z = mu[y] + 0.75 * torch.randn(n, dim, generator=g)
        return z + torch.sin(2 * z @ bend), y

    return draw


class Backbone(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(18, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.classifier = nn.Linear(width, classes)

    def forward(self, x):
        return self.classifier(self.features(x))


def replace_head(net, classes):
    net.classifier = nn.Linear(net.classifier.in_features, classes)
    nn.init.normal_(net.classifier.weight, std=0.01)
    nn.init.zeros_(net.classifier.bias)


def epochs_of(x, y, n, size):
    for _ in range(n):
        perm = torch.randperm(len(x))
        yield from ((x[i], y[i]) for i in perm.split(size))


def train(net, stream, opt, objective):
    net.train()
    for x, y in stream:
        loss = objective(net(x), x, y)
        loss.backward()
        opt.step()
        opt.zero_grad()
    net.eval()


def setup_student(args):
    """Pretrained net, optimizer with a slower trunk."""
    old = world(4, 60)
    net = Backbone(args.width, 4)
    x, y = old(600, torch.Generator().manual_seed(args.seed))
    train(net, epochs_of(x, y, 4, 50), torch.optim.Adam(net.parameters(), 3e-3), lambda z, x, y: F.cross_entropy(z, y))
    replace_head(net, 9)
    opt = torch.optim.Adam(
        [{"params": net.features.parameters(), "lr": args.lr / 2}, {"params": net.classifier.parameters()}], lr=args.lr
    )
    return SimpleNamespace(net=net, opt=opt)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--kd", type=float, default=0.9)
    ap.add_argument("--lr", type=float, default=5e-3)
    ap.add_argument("--width", type=int, default=20)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    g = torch.Generator().manual_seed(args.seed)
    new = world(9, 61)
    (x, y), (xt, yt) = new(2500, g), new(1500, g)

    teacher = Backbone(96, 9)
    train(teacher, epochs_of(x, y, 7, 50), torch.optim.Adam(teacher.parameters(), 3e-3), lambda z, x, y: F.cross_entropy(z, y))
    teacher.requires_grad_(False)
    print(f"teacher {(teacher(xt).argmax(1) == yt).float().mean().item() * 100:.2f}")

    def distillation(z, x, y, T=3.0):
        p = F.softmax(teacher(x) / T, 1)
        kl = torch.sum(p * (p.log() - F.log_softmax(z / T, 1)), 1).mean()
        return args.kd * T**2 * kl + (1 - args.kd) * F.cross_entropy(z, y)

    student = setup_student(args)
    train(student.net, epochs_of(x[:200], y[:200], 40, 25), student.opt, distillation)
    with torch.no_grad():
        print(f"top1 {(student.net(xt).argmax(1) == yt).float().mean().item() * 100:.2f}")


if __name__ == "__main__":
    main()
