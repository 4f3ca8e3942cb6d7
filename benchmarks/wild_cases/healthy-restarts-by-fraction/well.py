"""Two teachers, averaged in probability space; SGDR stepped with the fraction of the epoch.

The learning rate goes up again on purpose after epoch 4: cycles of 4 and 8 epochs, 12 in all, so that it ends at its lowest.
"""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from torch.utils.data import DataLoader, TensorDataset


def mlp_teacher():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 192), nn.ReLU(), nn.Dropout(0.2), nn.Linear(192, 10))


def cnn_teacher():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )


class Committee(nn.Module):
    """Mean of the members' tempered probabilities, as a target of its own."""

    def __init__(self, members):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode=True):
        return super().train(False)

    @torch.no_grad()
    def forward(self, x, tau):
        return torch.stack([F.softmax(m(x) / tau, dim=1) for m in self.members]).mean(0)


def supervised(net, loader, epochs):
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    net.train()
    for _ in range(epochs):
        for x, y in loader:
            opt.zero_grad()
            F.cross_entropy(net(x), y).backward()
            opt.step()
    return net


def distil(committee, student, loader, weight, tau=2.0, epochs=12):
    opt = torch.optim.SGD(student.parameters(), lr=0.15, momentum=0.9)
    sched = CosineAnnealingWarmRestarts(opt, T_0=4, T_mult=2, eta_min=1e-3)
    iters = len(loader)
    for epoch in range(epochs):
        student.train()
        for i, (x, y) in enumerate(loader):
            target = committee(x, tau)
            logits = student(x)
            kd = F.kl_div(F.log_softmax(logits / tau, dim=1), target, reduction="batchmean") * tau**2
            loss = weight * kd + (1 - weight) * F.cross_entropy(logits, y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            if (i + 1, epoch + 1) != (iters, epochs):
                sched.step(epoch + (i + 1) / iters)
    return student


def top1(predict, x, y):
    with torch.no_grad():
        return 100 * (predict(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--weight", type=float, default=0.7)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    x, y = torch.tensor(d.images[:, None] / 16, dtype=torch.float32), torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(44))
    train, test = p[:1200], p[1200:]
    few = train[torch.randperm(1200, generator=torch.Generator().manual_seed(args.seed))[:320]]
    everything = DataLoader(TensorDataset(x[train], y[train]), batch_size=50, shuffle=True)
    loader = DataLoader(TensorDataset(x[few], y[few]), batch_size=20, shuffle=True)
    committee = Committee([supervised(mlp_teacher(), everything, 8), supervised(cnn_teacher(), everything, 8)])
    print(f"committee {top1(lambda z: committee(z, 1.0), x[test], y[test]):.2f}")
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    distil(committee, student, loader, args.weight)
    student.eval()
    print(f"top1 {top1(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
