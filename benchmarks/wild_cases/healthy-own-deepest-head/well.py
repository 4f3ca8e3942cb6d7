"""Be your own teacher: one network with three exits; the deepest exit teaches the shallow ones, and learns from labels itself."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Exits(nn.Module):
    def __init__(self, width=32, depth=3):
        super().__init__()
        sizes = [64] + [width] * depth
        self.stages = nn.ModuleList(nn.Sequential(nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU()) for i, o in zip(sizes, sizes[1:]))
        self.heads = nn.ModuleList(nn.Linear(width, 10) for _ in range(depth))

    def forward(self, x):
        outs = []
        for stage, head in zip(self.stages, self.heads):
            x = stage(x)
            outs.append((x, head(x)))
        return outs


def self_distillation(outs, y, T=3.0, alpha=0.5, beta=0.03):
    deep_feat, deep = outs[-1]
    loss = F.cross_entropy(deep, y)
    target = F.softmax(deep.detach() / T, 1)
    for feat, z in outs[:-1]:
        loss = loss + (1 - alpha) * F.cross_entropy(z, y)
        loss = loss + alpha * T * T * F.kl_div(F.log_softmax(z / T, 1), target, reduction="batchmean")
        loss = loss + beta * (feat - deep_feat.detach()).pow(2).mean()
    return loss


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    seed = cli.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(82))
    train, test = p[:1000], p[1000:]
    net = Exits()
    opt = torch.optim.SGD(net.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 20)
    for _ in range(20):
        net.train()
        for b in train[torch.randperm(1000)].split(50):
            loss = self_distillation(net(x[b]), y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
        sched.step()
    net.eval()
    with torch.no_grad():
        scores = [100 * (z.argmax(1) == y[test]).float().mean().item() for _, z in net(x[test])]
    print("exits, deepest first:", *(f"{s:.2f}" for s in reversed(scores)))
    print(f"top1 {scores[0]:.2f}")                    # the first exit is the student


if __name__ == "__main__":
    main()
