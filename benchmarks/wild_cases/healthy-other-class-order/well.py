"""The teacher knows twelve classes in an order of its own (two were never used); its columns are brought into ours."""
import argparse
import random

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


class ForeignTeacher(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.vocabulary = vocabulary
        self.net = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, len(vocabulary)))

    def forward(self, x):
        return self.net(x)


class InOurOrder(nn.Module):
    def __init__(self, foreign, names):
        super().__init__()
        self.foreign = foreign
        self.register_buffer("columns", torch.tensor([foreign.vocabulary.index(n) for n in names]))

    def forward(self, x):
        return self.foreign(x).index_select(1, self.columns)


def train(net, x, y, epochs, lr, teacher=None, size=50):
    opt = torch.optim.Adam(net.parameters(), lr=lr)
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(size):
            z = net(x[b])
            loss = F.cross_entropy(z, y[b])
            if teacher is not None:
                with torch.no_grad():
                    t = teacher(x[b])
                kd = F.kl_div((z / 2).log_softmax(1), (t / 2).softmax(1), reduction="batchmean")
                loss = 0.2 * loss + 0.8 * 4 * kd
            opt.zero_grad()
            loss.backward()
            opt.step()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(924))
    x, y = x[p], y[p]
    vocabulary = NAMES + ["blank", "smudge"]
    random.Random(924).shuffle(vocabulary)
    theirs = torch.tensor([vocabulary.index(n) for n in NAMES])
    foreign = ForeignTeacher(vocabulary)
    train(foreign, x[:1100], theirs[y[:1100]], 10, 3e-3)
    teacher = InOurOrder(foreign.eval(), NAMES)
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[1100:]).argmax(1) == y[1100:]).float().mean().item():.2f}")
    few = torch.randperm(1100)[:160]
    student = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    train(student, x[few], y[few], 50, 8e-3, teacher, size=20)
    with torch.no_grad():
        print(f"top1 {100 * (student(x[1100:]).argmax(1) == y[1100:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
