"""The student starts from every other block of the teacher, as DistilBERT did."""
import argparse
import copy

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.up, self.down = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)

    def forward(self, h):
        return h + self.down(F.gelu(self.up(self.norm(h))))


class Tower(nn.Module):
    def __init__(self, d=32, depth=6):
        super().__init__()
        self.embed = nn.Linear(64, d)
        self.blocks = nn.ModuleList(Block(d) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, 10)

    def forward(self, x):
        h = self.embed(x)
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


def student_from(teacher, keep):
    student = Tower(depth=0)
    student.embed = copy.deepcopy(teacher.embed)
    student.blocks = nn.ModuleList(copy.deepcopy(teacher.blocks[i]) for i in keep)
    return student


def minibatches(*tensors, size, passes):
    for _ in range(passes):
        for rows in torch.randperm(len(tensors[0])).split(size):
            yield [t[rows] for t in tensors]


def fit_teacher(teacher, x, y):
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=1e-3)
    for xb, yb in minibatches(x, y, size=50, passes=8):
        optimizer.zero_grad()
        F.cross_entropy(teacher(xb), yb).backward()
        optimizer.step()
    return teacher.eval()


def distill(student, teacher, x, y, T=2.0, kd=1.0, ce=0.25):
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    student.train()
    for xb, yb in minibatches(x, y, size=25, passes=12):
        with torch.no_grad():
            wanted = F.log_softmax(teacher(xb) / T, dim=-1)
        logits = student(xb)
        given = F.log_softmax(logits / T, dim=-1)
        loss = kd * T**2 * F.kl_div(given, wanted, reduction="batchmean", log_target=True)
        loss = loss + ce * F.cross_entropy(logits, yb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return student.eval()


def accuracy(net, x, y):
    with torch.no_grad():
        return 100 * (net(x).argmax(-1) == y).float().mean().item()


def main(seed):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 8 - 1, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(64))
    x, y = x[p], y[p]
    teacher = fit_teacher(Tower(), x[:1000], y[:1000])
    print(f"teacher {accuracy(teacher, x[1000:], y[1000:]):.2f}")
    student = student_from(teacher, keep=(0, 2, 4))
    distill(student, teacher, x[:300], y[:300])
    print(f"top1 {accuracy(student, x[1000:], y[1000:]):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args().seed)
