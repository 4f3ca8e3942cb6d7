"""Two teachers of different build take turns by step; the student's batch norm and the one OneCycle schedule run through."""
import argparse
from itertools import cycle

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


class Wide(nn.Module):
    def __init__(self, h=256):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, h), nn.BatchNorm1d(h), nn.ReLU(), nn.Dropout(0.3), nn.Linear(h, 10))

    def forward(self, x):
        return self.net(x)


class Convnet(nn.Module):
    def __init__(self, c=12):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, c, 3, stride=2, padding=1), nn.ReLU())
        self.fc = nn.Linear(16 * c, 10)

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1))


def pretrain(net, loader, epochs):
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        net.train()
        for x, y in loader:
            opt.zero_grad()
            F.cross_entropy(net(x), y).backward()
            opt.step()
    return net.eval().requires_grad_(False)


@torch.no_grad()
def rate(net, x, y):
    mode = net.training
    net.eval()
    hit = (net(x).argmax(1) == y).float().mean().item() * 100
    net.train(mode)
    return hit


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--epochs", type=int, default=18)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    d = load_digits()
    x, y = torch.tensor(d.images, dtype=torch.float32)[:, None] / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(55))
    tr, te = p[:1248], p[1248:]
    loader = DataLoader(TensorDataset(x[tr], y[tr]), batch_size=48, shuffle=True)
    teachers = [pretrain(Wide(), loader, 12), pretrain(Convnet(), loader, 10)]
    print("teachers", *(f"{rate(t, x[te], y[te]):.2f}" for t in teachers))

    student = Wide(24)
    opt = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=0.08, epochs=a.epochs, steps_per_epoch=len(loader))
    turn = cycle(zip(teachers, (3.0, 5.0)))
    student.train()
    for epoch in range(a.epochs):
        for i, (bx, by) in enumerate(loader):
            teacher, tau = next(turn)
            with torch.no_grad():
                target = teacher(bx).div(tau).softmax(1)
            out = student(bx)
            soft = F.kl_div(out.div(tau).log_softmax(1), target, reduction="batchmean") * tau ** 2
            loss = 0.7 * soft + 0.3 * F.cross_entropy(out, by)
            opt.zero_grad()
            loss.backward()
            opt.step()
            sched.step()
            if epoch % 6 == 5 and i == len(loader) // 2:
                print(f"middle of epoch {epoch + 1}: {rate(student, x[te], y[te]):.2f}")
    print(f"top1 {rate(student, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
