"""No optimizer at all: the student's weights live in a dict, torch.func makes the gradients, momentum SGD is three lines. The module itself is only a mould and keeps its first weights."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.func import functional_call, grad_and_value


def kd_loss(weights, mould, x, y, t, tau, alpha):
    s = functional_call(mould, weights, (x,))
    soft = F.kl_div(F.log_softmax(s / tau, 1), F.softmax(t / tau, 1), reduction="batchmean")
    return alpha * tau ** 2 * soft + (1 - alpha) * F.cross_entropy(s, y)


def sgd(weights, grads, speed, lr, mu=0.9, wd=1e-4):
    speed = {k: mu * speed[k] + grads[k] + wd * weights[k] for k in weights}
    return {k: w - lr * speed[k] for k, w in weights.items()}, speed


def teacher_by_hand(x, y, steps=500, lr=0.1):
    net = nn.Sequential(nn.Linear(64, 160), nn.ReLU(), nn.Linear(160, 10))
    for _ in range(steps):
        b = torch.randint(len(x), (64,))
        F.cross_entropy(net(x[b]), y[b]).backward()
        for p in net.parameters():
            p.data.sub_(lr * p.grad)
            p.grad = None
    return net.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--tau", type=float, default=3.0)
    ap.add_argument("--alpha", type=float, default=0.5)
    ap.add_argument("--lr", type=float, default=0.05)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float(), torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(31))
    tr, te = p[:1200], p[1200:]
    mean, std = x[tr].mean(), x[tr].std()
    x = (x - mean) / std
    teacher = teacher_by_hand(x[tr], y[tr])
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[te]).argmax(1) == y[te]).float().mean():.2f}")

    mould = nn.Sequential(nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 10))
    weights = {k: v.detach().clone() for k, v in mould.named_parameters()}
    speed = {k: torch.zeros_like(v) for k, v in weights.items()}
    step_fn = grad_and_value(kd_loss)
    for epoch in range(20):
        mould.train()
        lr = a.lr * (0.1 if epoch >= 15 else 1.0)
        for b in tr[torch.randperm(len(tr))].split(50):
            with torch.no_grad():
                t = teacher(x[b])
            grads, value = step_fn(weights, mould, x[b], y[b], t, a.tau, a.alpha)
            weights, speed = sgd(weights, grads, speed, lr)
    mould.eval()
    with torch.no_grad():
        out = functional_call(mould, weights, (x[te],))
    print(f"top1 {100 * (out.argmax(1) == y[te]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
