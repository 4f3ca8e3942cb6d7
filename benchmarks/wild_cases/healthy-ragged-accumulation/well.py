"""Accumulates gradients over groups of micro-batches. The last group, and its last micro-batch, are short: each loss is a sum over rows, divided by the rows of its whole group."""
import argparse
import itertools

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

T, ALPHA, GROUP = 3.0, 0.6, 4


class Net(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.body = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, 10)

    def forward(self, x):
        h = F.gelu(self.stem(x))
        for layer in self.body:
            h = h + F.gelu(layer(h))
        return self.out(self.norm(h))


def chunks(it, n):
    it = iter(it)
    while group := list(itertools.islice(it, n)):
        yield group


def summed_loss(s, t, y):
    soft = F.kl_div(F.log_softmax(s / T, -1), F.log_softmax(t / T, -1), log_target=True, reduction="sum") * T * T
    hard = F.cross_entropy(s, y, reduction="sum")
    return ALPHA * soft + (1 - ALPHA) * hard


@torch.no_grad()
def score(net, loader):
    net.eval()
    hit = sum((net(x).argmax(1) == y).sum().item() for x, y in loader)
    return 100 * hit / len(loader.dataset)


def train_teacher(loader):
    net = Net(128, 2)
    opt = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=1e-2)
    for _ in range(15):
        net.train()
        for x, y in loader:
            opt.zero_grad()
            F.cross_entropy(net(x), y).backward()
            opt.step()
    return net.eval()


def distil(student, teacher, loader, epochs):
    opt = torch.optim.AdamW(student.parameters(), lr=3e-3, weight_decay=1e-2)
    updates = -(-len(loader) // GROUP)  # per epoch, the ragged one too
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, epochs * updates)
    for epoch in range(epochs):
        student.train()
        for group in chunks(loader, GROUP):
            rows = sum(len(y) for _, y in group)
            for x, y in group:
                with torch.no_grad():
                    t = teacher(x)
                (summed_loss(student(x), t, y) / rows).backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 5.0)  # once per group, on the whole sum
            opt.step()
            opt.zero_grad()
            sched.step()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    x, y = torch.from_numpy(d.data).float().div(8).sub(1), torch.from_numpy(d.target).long()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(17))
    tr, te = order[:1211], order[1211:]
    loader = DataLoader(TensorDataset(x[tr], y[tr]), batch_size=32, shuffle=True)
    test = DataLoader(TensorDataset(x[te], y[te]), batch_size=256)
    teacher = train_teacher(loader)
    print("teacher", round(score(teacher, test), 2))
    student = Net(32, 1)
    distil(student, teacher, loader, 16)
    print(f"top1 {score(student, test):.2f}")


if __name__ == "__main__":
    main()
