"""Accumulation over groups of micro-batches with summed losses: divided once, by the group's samples."""
import argparse
from itertools import islice

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset


def groups(iterable, k):
    it = iter(iterable)
    while chunk := list(islice(it, k)):
        yield chunk


def summed_kd(student_logits, teacher_logits, labels, T, alpha):
    kl = F.kl_div(F.log_softmax(student_logits / T, 1), F.softmax(teacher_logits / T, 1), reduction="sum")
    ce = F.cross_entropy(student_logits, labels, reduction="sum")
    return alpha * T * T * kl + (1 - alpha) * ce


def make_step(student, teacher, optimizer, T, alpha):
    def step(chunk):
        n = sum(len(y) for _, y in chunk)        # the last group is smaller
        optimizer.zero_grad()
        total = 0.0
        for x, y in chunk:
            with torch.no_grad():
                t = teacher(x)
            part = summed_kd(student(x), t, y, T, alpha) / n
            part.backward()
            total += part.item()
        optimizer.step()
        return total

    return step


def mlp(h):
    return nn.Sequential(nn.Linear(64, h), nn.LayerNorm(h), nn.GELU(), nn.Linear(h, 10))


def pretrained_teacher(loader):
    net = mlp(256)
    opt = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(5):
        for x, y in loader:
            loss = F.cross_entropy(net(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
    for p in net.parameters():
        p.requires_grad_(False)
    return net.eval()


@torch.no_grad()
def accuracy(net, x, y):
    return 100 * net(x).argmax(1).eq(y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--group", type=int, default=4, help="micro-batches per optimizer step")
    args = ap.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    X, y = load_digits(return_X_y=True)
    X, Xt, y, yt = train_test_split(torch.tensor(X / 16).float(), torch.tensor(y), test_size=450,
                                    random_state=args.seed, stratify=y)
    loader = DataLoader(TensorDataset(X, y), batch_size=16, shuffle=True)
    teacher = pretrained_teacher(loader)
    print(f"teacher {accuracy(teacher, Xt, yt):.2f}")

    student = mlp(12)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    step = make_step(student, teacher, optimizer, T=3.0, alpha=0.6)
    for epoch in range(8):
        student.train()
        losses = [step(chunk) for chunk in groups(loader, args.group)]
        print(f"epoch {epoch}: {sum(losses) / len(losses):.4f} over {len(losses)} steps")
    student.eval()
    print(f"top1 {accuracy(student, Xt, yt):.2f}")


if __name__ == "__main__":
    main()
