"""Distillation in bfloat16 autocast with gradient accumulation; warm-up, then a cosine."""
import argparse
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset


def get_args(argv=None):
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--epochs", type=int, default=16)
    p.add_argument("--micro-batch", type=int, default=8)
    p.add_argument("--accumulate", type=int, default=4)
    p.add_argument("--lr", type=float, default=0.1)
    p.add_argument("--warmup", type=float, default=0.05)
    p.add_argument("--T", type=float, default=3.0)
    p.add_argument("--alpha", type=float, default=0.7)
    return p.parse_args(argv)


def build(width):
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * width, 10),
    )


def cosine_with_warmup(optimizer, total, warmup):
    first = max(1, round(warmup * total))

    def factor(step):
        if step < first:
            return (step + 1) / first
        done = min(1.0, (step - first) / (total - first))
        return 0.5 * (1 + math.cos(math.pi * done))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def kd_loss(z, t, y, T, alpha):
    z, t = z.float(), t.float()
    soft = F.kl_div(F.log_softmax(z / T, 1), F.log_softmax(t / T, 1), log_target=True, reduction="batchmean")
    return alpha * T * T * soft + (1 - alpha) * F.cross_entropy(z, y)


def train_student(student, teacher, loader, args):
    opt = torch.optim.SGD(student.parameters(), lr=args.lr, momentum=0.9, nesterov=True)
    updates = args.epochs * (len(loader) // args.accumulate)
    sched = cosine_with_warmup(opt, updates, args.warmup)
    teacher.eval()
    student.train()
    for epoch in range(args.epochs):
        running = 0.0
        for i, (x, y) in enumerate(loader):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                with torch.no_grad():
                    t = teacher(x)
                z = student(x)
            loss = kd_loss(z, t, y, args.T, args.alpha)
            (loss / args.accumulate).backward()
            if (i + 1) % args.accumulate == 0:
                nn.utils.clip_grad_norm_(student.parameters(), 5.0)
                opt.step()
                opt.zero_grad(set_to_none=True)
            sched.step()
            running += loss.item()
        print(f"[{epoch:02d}] loss {running / len(loader):.4f}")


@torch.no_grad()
def test(net, x, y):
    net.eval()
    return (net(x).argmax(-1) == y).float().mean().item() * 100


def main(argv=None):
    args = get_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    data = load_digits()
    xa, xb, ya, yb = train_test_split(data.images, data.target, test_size=700, random_state=4, stratify=data.target)
    xa, xb = (torch.tensor(v / 8 - 1, dtype=torch.float32) for v in (xa, xb))
    ya, yb = torch.tensor(ya), torch.tensor(yb)

    teacher = build(16)
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(8):
        for rows in torch.randperm(len(xa)).split(32):
            opt.zero_grad()
            F.cross_entropy(teacher(xa[rows]), ya[rows]).backward()
            opt.step()
    teacher.requires_grad_(False)
    print(f"teacher {test(teacher, xb, yb):.2f}")

    student = build(3)
    subset = TensorDataset(xa[:512], ya[:512])
    train_student(student, teacher, DataLoader(subset, batch_size=args.micro_batch, shuffle=True, drop_last=True), args)
    print(f"top1 {test(student, xb, yb):.2f}")


if __name__ == "__main__":
    main()
