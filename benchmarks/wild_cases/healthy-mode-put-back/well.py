"""Evaluation within the epoch, of a moving average of the weights; the mode is put back by a context manager."""
import argparse
import contextlib

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


@contextlib.contextmanager
def evaluating(*nets):
    """eval() inside, whatever it was before outside."""
    before = [net.training for net in nets]
    try:
        for net in nets:
            net.eval()
        with torch.no_grad():
            yield
    finally:
        for net, mode in zip(nets, before):
            net.train(mode)


def build(width, dropout=0.0):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10),
    )


def top1(net, x, y):
    with evaluating(net):
        return 100 * (net(x).argmax(1) == y).float().mean().item()


def pretrain(x, y):
    net = build(192, 0.3)
    opt = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(8):
        for b in torch.randperm(len(x)).split(64):
            opt.zero_grad()
            F.cross_entropy(net(x[b]), y[b]).backward()
            opt.step()
    return net.requires_grad_(False).eval()


def distill(teacher, x, y, val, weight, steps=240, tau=2.0):
    student = build(20)
    average = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.95), use_buffers=True)
    opt = torch.optim.AdamW(student.parameters(), lr=5e-3)
    sched = torch.optim.lr_scheduler.LinearLR(opt, 1.0, 0.05, total_iters=steps)
    queue, curve = [], []
    for step in range(1, steps + 1):
        if not queue:
            queue = list(torch.randperm(len(x)).split(32))
        b = queue.pop()
        with torch.no_grad():
            target = F.log_softmax(teacher(x[b]) / tau, 1)
        logits = student(x[b])
        kd = F.kl_div(F.log_softmax(logits / tau, 1), target, reduction="batchmean", log_target=True)
        loss = weight * tau**2 * kd + (1 - weight) * F.cross_entropy(logits, y[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
        average.update_parameters(student)
        if step % 20 == 0:
            curve.append((top1(student, *val), top1(average, *val)))
    return average, curve


def split(seed):
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(404))
    few = p[:1100][torch.randperm(1100, generator=torch.Generator().manual_seed(seed))[:320]]
    return [(x[i], y[i]) for i in (p[:1100], few, p[1100:1300], p[1300:])]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--weight", type=float, default=0.5)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    everything, few, val, test = split(args.seed)
    teacher = pretrain(*everything)
    print(f"teacher {top1(teacher, *test):.2f}")
    student, curve = distill(teacher, *few, val, args.weight)
    print("student/average " + "  ".join(f"{a:.1f}/{b:.1f}" for a, b in curve[::4]))
    print(f"top1 {top1(student, *test):.2f}")


if __name__ == "__main__":
    main()
