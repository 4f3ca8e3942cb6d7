"""Be Your Own Teacher: the deepest exit teaches the shallow ones, by its logits and, through a bottleneck, its features."""
import argparse
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Exits(NamedTuple):
    logits: list
    features: list


def stage(cin, cout, stride):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout), nn.ReLU(inplace=True))


class MultiExitNet(nn.Module):
    def __init__(self, widths=(8, 16, 32)):
        super().__init__()
        self.stages = nn.ModuleList([stage(1, widths[0], 1), stage(widths[0], widths[1], 2), stage(widths[1], widths[2], 2)])
        self.bottlenecks = nn.ModuleList([nn.Sequential(nn.Linear(4 * w, widths[-1]), nn.ReLU()) for w in widths])
        self.heads = nn.ModuleList([nn.Linear(widths[-1], 10) for _ in widths])

    def forward(self, x):
        features = []
        for s in self.stages:
            x = s(x)
            features.append(F.adaptive_avg_pool2d(x, 2).flatten(1))
        features = [b(f) for b, f in zip(self.bottlenecks, features)]
        return Exits([h(f) for h, f in zip(self.heads, features)], features)


def byot_loss(exits, y, alpha=0.4, beta=0.05, T=3.0):
    *shallow, deepest = exits.logits
    teacher_logits, teacher_feature = deepest.detach(), exits.features[-1].detach()
    loss = F.cross_entropy(deepest, y)
    for logits, feature in zip(shallow, exits.features):
        soft = F.kl_div(F.log_softmax(logits / T, 1), F.softmax(teacher_logits / T, 1), reduction="batchmean") * T**2
        loss = loss + (1 - alpha) * F.cross_entropy(logits, y) + alpha * soft + beta * F.mse_loss(feature, teacher_feature)
    return loss


def train(net, x, y, epochs, alpha):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, epochs=epochs, steps_per_epoch=-(-len(x) // 32))
    for _ in range(epochs):
        net.train()
        for idx in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            byot_loss(net(x[idx]), y[idx], alpha).backward()
            optimizer.step()
            scheduler.step()
    return net


@torch.no_grad()
def accuracies(net, x, y):
    net.eval()
    return [100 * (z.argmax(1) == y).float().mean().item() for z in net(x).logits]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--alpha", type=float, default=0.4)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    x, y = torch.tensor(d.images[:, None] / 16, dtype=torch.float32), torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(6))
    few = p[:1200][torch.randperm(1200, generator=torch.Generator().manual_seed(args.seed))[:400]]
    net = train(MultiExitNet(), x[few], y[few], 12, args.alpha)
    acc = accuracies(net, x[p[1200:]], y[p[1200:]])
    print("exits " + " ".join(f"{a:.2f}" for a in acc))
    print(f"top1 {sum(acc) / len(acc):.2f}")


if __name__ == "__main__":
    main()
