"""A student whose depth is an option."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class ResMLP(nn.Module):
    def __init__(self, dim, depth):
        super().__init__()
        self.stem = nn.Linear(64, dim)
        self.blocks = nn.ModuleList(
            [nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim)) for _ in range(depth)]
        )
        self.fc = nn.Linear(dim, 10)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = F.relu(x + block(x))
        return self.fc(x)


class Conv(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, c, 3, padding=1), nn.Conv2d(c, c, 3, stride=2)
        self.fc = nn.Linear(9 * c, 10)

    def forward(self, x):
        x = x.view(-1, 1, 8, 8)
        return self.fc(self.c2(self.c1(x).relu()).relu().flatten(1))


def soft_ce(s, t, T):
    return -(F.softmax(t / T, 1) * F.log_softmax(s / T, 1)).sum(1).mean() * T * T


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--depth", type=int, default=2)
    ap.add_argument("--dim", type=int, default=12)
    ap.add_argument("-T", type=float, default=2.5)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(40))
    xtr, ytr, xte, yte = x[order[:1000]], y[order[:1000]], x[order[1000:]], y[order[1000:]]

    teacher = Conv(24)
    opt = torch.optim.Adam(teacher.parameters(), 2e-3)
    for epoch in range(10):
        for b in torch.randperm(1000).split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(xtr[b]), ytr[b]).backward()
            opt.step()
    teacher.eval()

    student = ResMLP(args.dim, args.depth)
    print("trainable", sum(p.numel() for p in student.parameters()))
    opt = torch.optim.Adam(student.parameters(), 4e-3)
    few = torch.randperm(1000)[:500]
    for epoch in range(15):
        student.train()
        for b in few[torch.randperm(500)].split(50):
            opt.zero_grad()
            with torch.no_grad():
                t = teacher(xtr[b])
            s = student(xtr[b])
            (0.8 * soft_ce(s, t, args.T) + 0.2 * F.cross_entropy(s, ytr[b])).backward()
            opt.step()

    student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(xte).argmax(1) == yte).float().mean():.2f}")
        print(f"top1 {100 * (student(xte).argmax(1) == yte).float().mean():.2f}")


if __name__ == "__main__":
    main()
