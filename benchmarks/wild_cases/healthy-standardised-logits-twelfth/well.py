"""Logit standardisation (Sun et al. 2024): both sides lose their mean and their spread, so that only the shape of the
answers is taught; the temperature acts on the standardised values, and the weight of 9 beside .1 is the paper's."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def zscore(logits, eps=1e-7):
    return (logits - logits.mean(dim=-1, keepdim=True)) / (logits.std(dim=-1, keepdim=True) + eps)


class StandardisedKD(nn.Module):
    def __init__(self, tau=2.0):
        super().__init__()
        self.tau = tau

    def forward(self, logits_student, logits_teacher):
        s, t = zscore(logits_student) / self.tau, zscore(logits_teacher) / self.tau
        return F.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="none").sum(-1).mean() * self.tau**2


def mlp(*sizes):
    layers = []
    for a, b in zip(sizes, sizes[1:]):
        layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 10))


def loop(net, x, y, step_loss, epochs, lr):
    opt = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, epochs)
    for _ in range(epochs):
        net.train()
        for b in torch.randperm(len(x)).split(32):
            opt.zero_grad()
            step_loss(net(x[b]), x[b], y[b]).backward()
            opt.step()
        sched.step()
    net.eval()
    return net


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--kd", type=float, default=9.0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(818))
    train, test = p[:1120], p[1120:]
    few = train[torch.randperm(1120)[:192]]
    teacher = loop(mlp(64, 128, 128), x[train], y[train], lambda z, _, t: F.cross_entropy(z, t), 12, 0.05)
    shape = StandardisedKD()

    def step_loss(z, images, labels):
        with torch.no_grad():
            answers = teacher(images)
        return 0.1 * F.cross_entropy(z, labels) + a.kd * shape(z, answers)

    student = loop(mlp(64, 14), x[few], y[few], step_loss, 50, 0.02)
    with torch.no_grad():
        print(f"top1 {100 * (student(x[test]).argmax(-1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
