"""Tiny ViT: the eight rows of a digit are eight tokens. AdamW with decay on matrices only."""
import argparse
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class RowViT(nn.Module):
    def __init__(self, dim, depth, heads, dropout=0.0):
        super().__init__()
        self.proj = nn.Linear(8, dim)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos = nn.Parameter(0.02 * torch.randn(1, 9, dim))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, heads, 2 * dim, dropout, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 10)

    def forward(self, x):
        h = torch.cat([self.cls.expand(len(x), -1, -1), self.proj(x)], dim=1) + self.pos
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h[:, 0]))


def param_groups(net, weight_decay):
    decayed, plain = [], []
    for module in net.modules():
        for name, p in module.named_parameters(recurse=False):
            if name.endswith("bias") or isinstance(module, nn.LayerNorm):
                plain.append(p)
            elif isinstance(module, nn.Linear):
                decayed.append(p)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


class WarmupCosine:
    def __init__(self, optimizer, warmup, total):
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: (
            (s + 1) / warmup if s < warmup else 0.5 * (1 + math.cos(math.pi * (s - warmup) / (total - warmup)))
        ))

    def step(self):
        self.scheduler.step()


class DistillCriterion(nn.Module):
    def __init__(self, teacher, tau, alpha):
        super().__init__()
        self.teacher = [teacher.eval()]
        self.tau, self.alpha = tau, alpha

    def forward(self, x, logits, y):
        hard = F.cross_entropy(logits, y)
        with torch.no_grad():
            t = self.teacher[0](x)
        soft = F.kl_div(
            F.log_softmax(logits / self.tau, -1), F.log_softmax(t / self.tau, -1), reduction="batchmean", log_target=True
        )
        return hard * (1 - self.alpha) + soft * self.alpha * self.tau**2


def fit(net, x, y, epochs, lr, criterion=None, batch=50):
    opt = torch.optim.AdamW(param_groups(net, 0.02), lr=lr, betas=(0.9, 0.98))
    sched = WarmupCosine(opt, warmup=20, total=epochs * math.ceil(len(x) / batch))
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(batch):
            logits = net(x[rows])
            loss = F.cross_entropy(logits, y[rows]) if criterion is None else criterion(x[rows], logits, y[rows])
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            opt.step()
            sched.step()
    return net.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--tau", type=float, default=3.0)
    ap.add_argument("--alpha", type=float, default=0.7)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    images, labels = load_digits(return_X_y=True)
    xa, xb, ya, yb = train_test_split(images / 16.0, labels, test_size=600, random_state=8, stratify=labels)
    xa, xb = (torch.tensor(v, dtype=torch.float32).view(-1, 8, 8) for v in (xa, xb))
    ya, yb = torch.tensor(ya), torch.tensor(yb)

    teacher = fit(RowViT(32, 2, 4, 0.1), xa, ya, 16, 4e-3)
    few = torch.randperm(len(xa))[:400]
    student = fit(RowViT(16, 1, 2), xa[few], ya[few], 40, 4e-3, DistillCriterion(teacher, a.tau, a.alpha))
    with torch.no_grad():
        print(f"teacher {100 * (teacher(xb).argmax(1) == yb).float().mean():.2f}")
        print(f"top1 {100 * (student(xb).argmax(1) == yb).float().mean():.2f}")


if __name__ == "__main__":
    main()
