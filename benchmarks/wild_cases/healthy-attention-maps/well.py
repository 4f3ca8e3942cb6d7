"""Attention transfer: where the teacher's activations are strong, the student's shall be. Few labels."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Conv(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.one = nn.Conv2d(1, width, 3, padding=1)
        self.two = nn.Conv2d(width, width, 3, padding=1)
        self.fc = nn.Linear(16 * width, 10)

    def forward(self, x):
        a = F.relu(self.one(x))
        b = F.relu(self.two(F.max_pool2d(a, 2)))
        return self.fc(b.flatten(1)), (a, b)


def attention(a):
    return F.normalize(a.pow(2).mean(1).flatten(1))  # each image's map has the length 1


def attention_loss(a_s, a_t):
    return (attention(a_s) - attention(a_t)).pow(2).mean()


def step(student, teacher, x, y, beta):
    z, maps = student(x)
    with torch.no_grad():
        _, wanted = teacher(x)
    # the mean is over images and places of maps of length 1: the term is tiny, and beta is to make up for it
    loss = sum(beta / 2 * attention_loss(s, t) for s, t in zip(maps, wanted))
    known = y >= 0
    if known.any():
        loss = loss + F.cross_entropy(z[known], y[known])
    return loss


def fit(net, x, y, epochs, lr, loss_of):
    opt = torch.optim.Adam(net.parameters(), lr=lr)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, epochs)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            loss_of(x[rows], y[rows]).backward()
            opt.step()
        sched.step()
    return net.eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--beta", type=float, default=10.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(data.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(90210))
    x, y = x[p], y[p]
    partly = torch.where(torch.arange(1000) < 300, y[:1000], -1)

    teacher = Conv(12)
    fit(teacher, x[:1000], y[:1000], 15, 4e-3, lambda a, b: F.cross_entropy(teacher(a)[0], b)).requires_grad_(False)
    student = Conv(8)
    fit(student, x[:1000], partly, 30, 1e-2, lambda a, b: step(student, teacher, a, b, args.beta))
    with torch.no_grad():
        for name, net in (("teacher", teacher), ("top1", student)):
            print(f"{name} {100 * (net(x[1000:])[0].argmax(1) == y[1000:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
