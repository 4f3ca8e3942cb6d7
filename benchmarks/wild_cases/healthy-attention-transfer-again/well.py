"""Attention transfer: where the channels are strong, averaged and normalised, in two stages of both nets."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def stage(cin, cout):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1, bias=False), nn.BatchNorm2d(cout), nn.ReLU(inplace=True))


class TwoStage(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.stage1 = stage(1, w)
        self.stage2 = stage(w, 2 * w)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(2 * w * 4, 10)

    def forward(self, x):
        g1 = self.stage1(x)
        g2 = self.stage2(self.pool(g1))
        return self.fc(self.pool(g2).flatten(1)), (g1, g2)


def attention_map(g):
    return F.normalize(g.pow(2).mean(dim=1).flatten(1), dim=1)


def at_loss(gs, gt):
    return (attention_map(gs) - attention_map(gt)).pow(2).mean()


def fit(net, x, y, epochs, lr, teacher=None, beta=0.0):
    opt = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    sched = torch.optim.lr_scheduler.MultiStepLR(opt, [epochs // 2, 3 * epochs // 4], gamma=0.2)
    for _ in range(epochs):
        net.train()
        for b in torch.randperm(len(x)).split(50):
            logits, maps = net(x[b])
            loss = F.cross_entropy(logits, y[b])
            if teacher is not None:
                with torch.no_grad():
                    _, t_maps = teacher(x[b])
                loss = loss + beta / 2 * sum(at_loss(s, t) for s, t in zip(maps, t_maps))
            opt.zero_grad()
            loss.backward()
            opt.step()
        sched.step()


@torch.no_grad()
def top1(net, x, y):
    net.eval()
    return 100 * (net(x)[0].argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--beta", type=float, default=300.0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16 - 0.3, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(501))
    train, test = p[:1150], p[1150:]
    few = train[:250]
    teacher = TwoStage(16)
    fit(teacher, x[train], y[train], 8, 0.05)
    print(f"teacher {top1(teacher, x[test], y[test]):.2f}")
    teacher.requires_grad_(False)
    student = TwoStage(4)
    fit(student, x[few], y[few], 24, 0.03, teacher, a.beta)
    print(f"top1 {top1(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
