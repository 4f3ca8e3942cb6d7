"""Decoupled distillation: the right class against the rest, and the rest among themselves, each with its weight."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Settings:
    temperature = 3.0
    tckd_weight = 1.0
    nckd_weight = 2.0
    ce_weight = 1.0
    warmup_epochs = 4
    epochs = 20
    batch = 50
    lr = 0.03


def binary_log_probs(log_probs, target_mask):
    """log of [p(target), 1 - p(target)]"""
    target = log_probs.masked_fill(~target_mask, float("-inf")).logsumexp(dim=1)
    rest = log_probs.masked_fill(target_mask, float("-inf")).logsumexp(dim=1)
    return torch.stack([target, rest], dim=1)


def dkd_loss(logits_student, logits_teacher, labels, cfg):
    T = cfg.temperature
    mask = F.one_hot(labels, logits_student.size(1)).bool()
    log_s = F.log_softmax(logits_student / T, dim=1)
    log_t = F.log_softmax(logits_teacher / T, dim=1)
    tckd = F.kl_div(
        binary_log_probs(log_s, mask), binary_log_probs(log_t, mask), reduction="batchmean", log_target=True)

    n, k = logits_student.shape
    others_s = logits_student[~mask].view(n, k - 1)
    others_t = logits_teacher[~mask].view(n, k - 1)
    nckd = F.kl_div(
        F.log_softmax(others_s / T, dim=1), F.log_softmax(others_t / T, dim=1),
        reduction="batchmean", log_target=True)
    return (cfg.tckd_weight * tckd + cfg.nckd_weight * nckd) * T**2


class ConvNet(nn.Module):
    def __init__(self, ch):
        super().__init__()
        self.c1 = nn.Conv2d(1, ch, 3, padding=1)
        self.c2 = nn.Conv2d(ch, 2 * ch, 3, padding=1)
        self.fc = nn.Linear(8 * ch, 10)

    def forward(self, x):
        x = F.max_pool2d(self.c1(x).relu(), 2)
        x = F.max_pool2d(self.c2(x).relu(), 2)
        return self.fc(x.flatten(1))


def pretrain(net, x, y, epochs=10):
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            opt.step()
    return net.eval()


def distill(student, teacher, x, y, cfg):
    opt = torch.optim.SGD(student.parameters(), lr=cfg.lr, momentum=0.9, weight_decay=1e-4)
    for epoch in range(cfg.epochs):
        ramp = min(1.0, (epoch + 1) / cfg.warmup_epochs)
        student.train()
        for rows in torch.randperm(len(x)).split(cfg.batch):
            out = student(x[rows])
            with torch.no_grad():
                ref = teacher(x[rows])
            loss = cfg.ce_weight * F.cross_entropy(out, y[rows]) + ramp * dkd_loss(out, ref, y[rows], cfg)
            opt.zero_grad()
            loss.backward()
            opt.step()
    return student.eval()


def top1(net, x, y):
    with torch.no_grad():
        return 100 * (net(x).argmax(1) == y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    digits = load_digits()
    x = torch.from_numpy(digits.images).float()[:, None] / 16
    y = torch.from_numpy(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(6))
    x_train, y_train, x_test, y_test = x[order[:1200]], y[order[:1200]], x[order[1200:]], y[order[1200:]]
    teacher = pretrain(ConvNet(24), x_train, y_train)
    print(f"teacher {top1(teacher, x_test, y_test):.2f}")
    student = distill(ConvNet(4), teacher, x_train, y_train, Settings)
    print(f"top1 {top1(student, x_test, y_test):.2f}")


if __name__ == "__main__":
    main()
