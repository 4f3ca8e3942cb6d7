"""Decoupled knowledge distillation (Zhao et al. 2022), with the warm-up of the paper."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def dkd(student_logits, teacher_logits, target, alpha=1.0, beta=4.0, T=2.0):
    hit = F.one_hot(target, student_logits.size(1)).bool()
    s, t = student_logits / T, teacher_logits / T

    def binary(z):
        p = z.softmax(1)
        right = p[hit].unsqueeze(1)
        return torch.cat([right, 1 - right], 1).clamp(min=1e-7)

    tckd = F.kl_div(binary(s).log(), binary(t), reduction="batchmean")
    others_s = s.masked_fill(hit, -1000.0).log_softmax(1)
    others_t = t.masked_fill(hit, -1000.0).softmax(1)
    nckd = F.kl_div(others_s, others_t, reduction="batchmean")
    return (alpha * tckd + beta * nckd) * T**2


class Mixer(nn.Module):
    """MLP-mixer on sixteen patches of 2 x 2."""

    def __init__(self, dim, depth):
        super().__init__()
        self.patch = nn.Conv2d(1, dim, 2, stride=2)
        self.space = nn.ModuleList(nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16), nn.GELU()) for _ in range(depth))
        self.chan = nn.ModuleList(nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU()) for _ in range(depth))
        self.head = nn.Linear(16 * dim, 10)

    def forward(self, x):
        h = self.patch(x).flatten(2)
        for a, b in zip(self.space, self.chan):
            h = h + a(h)
            h = h + b(h.transpose(1, 2)).transpose(1, 2)
        return self.head(h.flatten(1))


def pretrain(net, x, y):
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(12):
        for b in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            F.cross_entropy(net(x[b]), y[b]).backward()
            opt.step()
    net.eval()
    return net


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--warmup", type=int, default=10)
    ap.add_argument("--epochs", type=int, default=40)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x_tr, x_te, y_tr, y_te = train_test_split(x / 16, y, train_size=1000, stratify=y, random_state=9)
    as_images = lambda a: torch.tensor(a, dtype=torch.float32).view(-1, 1, 8, 8)
    x_tr, x_te, y_tr, y_te = as_images(x_tr), as_images(x_te), torch.tensor(y_tr), torch.tensor(y_te)
    teacher = pretrain(Mixer(24, 2), x_tr, y_tr)
    student = Mixer(3, 1)
    few = torch.randperm(1000)[:200]
    opt = torch.optim.SGD(student.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    for epoch in range(args.epochs):
        ramp = min((epoch + 1) / args.warmup, 1.0)
        for b in few[torch.randperm(len(few))].split(25):
            with torch.no_grad():
                t = teacher(x_tr[b])
            s = student(x_tr[b])
            loss = F.cross_entropy(s, y_tr[b]) + ramp * dkd(s, t, y_tr[b])
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 5.0)
            opt.step()
    with torch.no_grad():
        for name, net in (("teacher", teacher), ("top1", student)):
            print(f"{name} {100 * (net(x_te).argmax(1) == y_te).float().mean():.2f}")


if __name__ == "__main__":
    main()
