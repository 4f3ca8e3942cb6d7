"""Two tasks (labels, teacher) whose gradients are taken apart with autograd.grad, freed of their conflict (PCGrad) and joined by hand. backward() is never called for the student."""
import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F


def load(seed=3):
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(x))
    cut = 1250
    mean, std = x[order[:cut]].mean(), x[order[:cut]].std()
    x = torch.as_tensor((x - mean) / std, dtype=torch.float32)
    y = torch.as_tensor(y)
    order = torch.as_tensor(order)
    return (x[order[:cut]], y[order[:cut]]), (x[order[cut:]], y[order[cut:]])


def dense(width):
    return nn.Sequential(nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10))


def flat(grads):
    return torch.cat([g.reshape(-1) for g in grads])


def project(a, b):
    """a without the part of it that goes against b."""
    dot = a @ b
    return a - dot / (b @ b + 1e-12) * b if dot < 0 else a


def kd(s, t, tau):
    return tau ** 2 * F.kl_div((s / tau).log_softmax(1), (t / tau).softmax(1), reduction="batchmean")


def write_back(params, vector):
    at = 0
    for p in params:
        p.grad = vector[at:at + p.numel()].view_as(p).clone()
        at += p.numel()


def top1(net, xy):
    was = net.training
    net.eval()
    with torch.no_grad():
        r = (net(xy[0]).argmax(1) == xy[1]).float().mean().item() * 100
    net.train(was)
    return r


def teacher_for(xy):
    net = dense(200)
    opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(15):
        for i in torch.randperm(len(xy[0])).split(50):
            opt.zero_grad()
            F.cross_entropy(net(xy[0][i]), xy[1][i]).backward()
            opt.step()
    return net.eval().requires_grad_(False)


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--tau", type=float, default=4.0)
    args = cli.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    train, test = load()
    teacher = teacher_for(train)
    print(f"teacher {top1(teacher, test):.2f}")
    student = dense(24).train()
    params = list(student.parameters())
    opt = torch.optim.SGD(params, lr=0.03, momentum=0.9, weight_decay=5e-4)
    sched = torch.optim.lr_scheduler.MultiStepLR(opt, [12, 17], gamma=0.2)
    for epoch in range(20):
        clashes = 0
        for i in torch.randperm(1250).split(50):
            x, y = train[0][i], train[1][i]
            with torch.no_grad():
                t = teacher(x)
            s = student(x)
            g_hard = flat(torch.autograd.grad(F.cross_entropy(s, y), params, retain_graph=True))
            g_soft = flat(torch.autograd.grad(kd(s, t, args.tau), params))
            clashes += int(g_hard @ g_soft < 0)
            joined = 0.5 * project(g_hard, g_soft) + 0.5 * project(g_soft, g_hard)
            write_back(params, joined)  # overwrites: nothing is left to clear
            opt.step()
        sched.step()
        if epoch % 5 == 4:
            print(epoch + 1, "clashes", clashes, "test", round(top1(student, test), 2))
    print(f"top1 {top1(student, test):.2f}")


if __name__ == "__main__":
    main()
