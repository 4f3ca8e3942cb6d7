"""Teacher and student look at mixed images; what the teacher says of the mixture is the only target besides mixed labels."""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.distributions import Beta
from torch.nn import functional as F


def blend(batch, strength):
    lam = Beta(strength, strength).sample((len(batch["pixels"]), 1))
    other = torch.randperm(len(batch["pixels"]))
    pixels = lam * batch["pixels"] + (1 - lam) * batch["pixels"][other]
    target = lam * batch["target"] + (1 - lam) * batch["target"][other]
    return {"pixels": pixels, "target": target}


class Highway(nn.Module):
    def __init__(self, n, depth):
        super().__init__()
        self.enter = nn.Linear(64, n)
        self.gates = nn.ModuleList(nn.Linear(n, 2 * n) for _ in range(depth))
        self.leave = nn.Linear(n, 10)

    def forward(self, pixels):
        h = torch.relu(self.enter(pixels))
        for g in self.gates:
            value, gate = g(h).chunk(2, dim=1)
            gate = gate.sigmoid()
            h = gate * torch.relu(value) + (1 - gate) * h
        return self.leave(h)


def cross(log_q, p):
    return -(p * log_q).sum(1).mean()


def train(net, batches, opt, loss_of):
    net.train()
    for batch in batches:
        loss = loss_of(net, batch)
        opt.zero_grad()
        loss.backward()
        opt.step()


def feed(x, y, size):
    one_hot = F.one_hot(y, 10).float()
    for rows in torch.randperm(len(x)).split(size):
        yield {"pixels": x[rows], "target": one_hot[rows]}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--strength", type=float, default=0.5)
    p.add_argument("--share", type=float, default=0.9)
    p.add_argument("--epochs", type=int, default=50)
    a = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(912))
    x, y = x[order], y[order]
    few = torch.randperm(1100)[:160]

    teacher = Highway(96, 1)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)

    def first(net, batch):
        mixed = blend(batch, a.strength)
        return cross(net(mixed["pixels"]).log_softmax(1), mixed["target"])

    for _ in range(14):
        train(teacher, feed(x[:1100], y[:1100], 50), opt, first)
    teacher.eval()

    def second(net, batch):
        mixed = blend(batch, a.strength)
        with torch.no_grad():
            answer = teacher(blend(batch, a.strength)["pixels"]).softmax(1)
        log_q = net(mixed["pixels"]).log_softmax(1)
        return a.share * cross(log_q, answer) + (1 - a.share) * cross(log_q, mixed["target"])

    student = Highway(12, 1)
    opt = torch.optim.Adam(student.parameters(), lr=8e-3)
    for _ in range(a.epochs):
        train(student, feed(x[few], y[few], 20), opt, second)
    student.eval()
    with torch.no_grad():
        t, s = (100 * (n(x[1100:]).argmax(1) == y[1100:]).float().mean().item() for n in (teacher, student))
    print(f"teacher {t:.2f}")
    print(f"top1 {s:.2f}")


if __name__ == "__main__":
    main()
