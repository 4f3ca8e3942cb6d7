"""Distil a CNN into a small one. One file, one class, early in the life of a project."""
import argparse
import logging
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.utils.data as data
from sklearn.datasets import load_digits

log = logging.getLogger("kd")


def divergence(student_logits, teacher_logits, temperature):
    kind = "forward_kl"
    s = F.log_softmax(student_logits / temperature, dim=-1)
    t = F.log_softmax(teacher_logits / temperature, dim=-1)
    if kind == "forward_kl":
        loss = F.kl_div(s, t, reduction="batchmean", log_target=True) / student_logits.size(0)
    else:
        loss = F.kl_div(t, s, reduction="batchmean", log_target=True)
    return loss * temperature**2


def total_loss(student_logits, teacher_logits, labels, temperature=4.0, kd_ratio=0.9):
    hard = F.cross_entropy(student_logits, labels)
    soft = divergence(student_logits, teacher_logits, temperature)
    return (1 - kd_ratio) * hard + kd_ratio * soft


class Block(nn.Module):
    def __init__(self, cin, cout, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class TinyNet(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.blocks = nn.ModuleList([Block(1, c), Block(c, 2 * c, 2), Block(2 * c, 2 * c, 2)])
        self.out = nn.Linear(2 * c, 10)

    def forward(self, x):
        for b in self.blocks:
            x = b(x)
        return self.out(x.mean((2, 3)))


class Experiment:
    def __init__(self, seed):
        torch.manual_seed(seed)
        d = load_digits()
        x = torch.from_numpy(d.images).float().unsqueeze(1).div(8).sub(1)
        y = torch.from_numpy(d.target)
        full = data.TensorDataset(x, y)
        train, self.test = data.random_split(full, [1200, 597], torch.Generator().manual_seed(17))
        self.train = train
        self.small = data.Subset(train, torch.randperm(1200)[:300].tolist())

    def loop(self, model, dataset, epochs, lr, teacher=None):
        loader = data.DataLoader(dataset, batch_size=30, shuffle=True, drop_last=True)
        opt = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
        total = epochs * len(loader)
        sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda s: 0.5 * (1 + math.cos(math.pi * s / total)))
        for epoch in range(epochs):
            model.train()
            for x, y in loader:
                z = model(x)
                if teacher is None:
                    loss = F.cross_entropy(z, y)
                else:
                    with torch.inference_mode():
                        t = teacher(x)
                    loss = total_loss(z, t.clone(), y)
                opt.zero_grad()
                loss.backward()
                opt.step()
                sched.step()
            log.debug("epoch %d loss %.4f", epoch, loss.item())
        return model.eval()

    @torch.no_grad()
    def evaluate(self, model):
        model.eval()
        hits = [(model(x).argmax(1) == y).float() for x, y in data.DataLoader(self.test, batch_size=200)]
        return 100 * torch.cat(hits).mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--verbose", action="store_true")
    args = ap.parse_args()
    logging.basicConfig(level=logging.DEBUG if args.verbose else logging.WARNING)
    torch.set_num_threads(1)
    exp = Experiment(args.seed)
    teacher = exp.loop(TinyNet(12), exp.train, 7, 0.1)
    print(f"teacher {exp.evaluate(teacher):.2f}")
    student = exp.loop(TinyNet(4), exp.small, 15, 0.05, teacher)
    print(f"top1 {exp.evaluate(student):.2f}")


if __name__ == "__main__":
    main()
