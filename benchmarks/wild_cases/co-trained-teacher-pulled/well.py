"""Online distillation: a wide network and a narrow one start together; the narrow one follows the wide one."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.g = nn.Linear(width, 10)

    def forward(self, x):
        return self.g(self.f(x))


def follow(student_logits, teacher_logits, T=2.0):
    p = F.softmax(teacher_logits.detach() / T, dim=1)
    return T * T * F.kl_div(F.log_softmax(student_logits / T, dim=1), p, reduction="batchmean")


def train(big, small, x, y, pool, epochs, kd_weight):
    """x, y: labelled; pool: images without labels, for the follower."""
    opt_big = torch.optim.SGD(big.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    opt_small = torch.optim.SGD(small.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    for epoch in range(epochs):
        big.train()
        small.train()
        for i in torch.randperm(len(x)).split(50):
            u = pool[torch.randint(len(pool), (50,))]
            n = len(i)
            both = torch.cat([x[i], u])
            zb, zs = big(both), small(both)
            loss_big = F.cross_entropy(zb[:n], y[i])
            loss_small = F.cross_entropy(zs[:n], y[i]) + kd_weight * follow(zs, zb)
            opt_big.zero_grad()
            opt_small.zero_grad()
            (loss_big + loss_small).backward()
            opt_big.step()
            opt_small.step()


def top1(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * net(x).argmax(1).eq(y).float().mean().item()


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--kd-weight", type=float, default=5.0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = (torch.from_numpy(v) for v in load_digits(return_X_y=True))
    x = x.float() / 16
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(77))
    labelled, pool, test = p[:400], p[400:1100], p[1100:]
    big, small = Net(128), Net(6)
    train(big, small, x[labelled], y[labelled], x[pool], 25, a.kd_weight)
    print(f"wide {top1(big, x[test], y[test]):.2f}")
    print(f"top1 {top1(small, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
