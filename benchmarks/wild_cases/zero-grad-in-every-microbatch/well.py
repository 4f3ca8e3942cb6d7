"""Large effective batches out of small ones: gradients of `accumulate` micro-batches make a step."""
import argparse

import torch
import torch.nn.functional as F
from torch import nn, optim


def rings(n, gen, classes=6):
    """Classes are shells around the origin, cut in two by a plane: no linear rule works."""
    y = torch.randint(classes, (n,), generator=gen)
    v = F.normalize(torch.randn(n, 6, generator=gen), dim=1)
    side = (y % 2).float() * 2 - 1
    v[:, 0] = v[:, 0].abs() * side
    r = 1.0 + (y // 2).float() + 0.2 * torch.randn(n, generator=gen)
    return v * r[:, None] + 0.08 * torch.randn(n, 6, generator=gen), y


def mlp(*sizes):
    layers = []
    for a, b in zip(sizes[:-2], sizes[1:-1]):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def make_loss(teacher, T, alpha):
    def loss(student, x, y):
        out = student(x)
        if teacher is None:
            return F.cross_entropy(out, y)
        with torch.no_grad():
            log_p = F.log_softmax(teacher(x) / T, dim=1)
        log_q = F.log_softmax(out / T, dim=1)
        kd = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
        return alpha * T * T * kd + (1 - alpha) * F.cross_entropy(out, y)

    return loss


def micro_batches(x, y, size):
    while True:
        for rows in torch.randperm(len(x)).split(size):
            if len(rows) == size:
                yield x[rows], y[rows]


def optimise(net, loss, batches, steps, lr, accumulate=1):
    opt = optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    for k in range(1, steps * accumulate + 1):
        x, y = next(batches)
        (loss(net, x, y) / accumulate).backward()
        if k % accumulate == 0:
            opt.step()
            opt.zero_grad()
    return net


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--alpha", type=float, default=0.9)
    cli.add_argument("--accumulate", type=int, default=8)
    cli = cli.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(cli.seed)
    gen = torch.Generator().manual_seed(cli.seed)
    x, y = rings(3000, gen)
    xt, yt = rings(1500, gen)

    def top1(net):
        return (net(xt).argmax(1) == yt).float().mean().mul(100).item()

    teacher = optimise(mlp(6, 64, 64, 6), make_loss(None, 1, 0), micro_batches(x, y, 64), 350, 0.1)
    print(f"teacher {top1(teacher):.2f}")
    student = optimise(
        mlp(6, 16, 6), make_loss(teacher, 3.0, cli.alpha), micro_batches(x[:600], y[:600], 4), 120, 0.1, cli.accumulate
    )
    print(f"top1 {top1(student):.2f}")


if __name__ == "__main__":
    main()
