"""Engine with callbacks: trains, validates every few steps, keeps the best weights."""
import argparse
import copy
from collections import defaultdict

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


class ConvBlock(nn.Module):
    def __init__(self, cin, cout, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class DigitNet(nn.Module):
    def __init__(self, width, p):
        super().__init__()
        self.stages = nn.Sequential(ConvBlock(1, width), ConvBlock(width, 2 * width, 2), ConvBlock(2 * width, 2 * width, 2))
        self.drop = nn.Dropout(p)
        self.fc = nn.Linear(2 * width, 10)

    def forward(self, x):
        return self.fc(self.drop(self.stages(x).mean((2, 3))))


class KDEngine:
    def __init__(self, teacher, student, loaders, *, temperature=3.0, kd_weight=0.6, lr=0.05, epochs=12, val_every=10):
        self.teacher = teacher.eval()
        for p in self.teacher.parameters():
            p.requires_grad_(False)
        self.student, self.loaders = student, loaders
        self.temperature, self.kd_weight = temperature, kd_weight
        self.epochs, self.val_every = epochs, val_every
        self.optimizer = optim.SGD(student.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
        self.scheduler = optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=epochs * len(loaders["train"]))
        self.history, self.best, self.step = defaultdict(list), (-1.0, None), 0

    def loss(self, x, y):
        t = self.temperature
        with torch.no_grad():
            teacher_logits = self.teacher(x)
        logits = self.student(x)
        kd = F.kl_div(F.log_softmax(logits / t, 1), F.softmax(teacher_logits / t, 1), reduction="batchmean") * (t * t)
        return self.kd_weight * kd + (1.0 - self.kd_weight) * F.cross_entropy(logits, y)

    @torch.no_grad()
    def validate(self, split="val"):
        self.student.eval()
        hits = total = 0
        for x, y in self.loaders[split]:
            hits += (self.student(x).argmax(1) == y).sum().item()
            total += len(y)
        return 100.0 * hits / total

    def on_step_end(self):
        self.step += 1
        if self.step % self.val_every:
            return
        acc = self.validate()
        self.history["val"].append(acc)
        if acc > self.best[0]:
            self.best = acc, copy.deepcopy(self.student.state_dict())

    def fit(self):
        self.student.train()
        for _ in range(self.epochs):
            for x, y in self.loaders["train"]:
                loss = self.loss(x, y)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.scheduler.step()
                self.on_step_end()
        self.student.load_state_dict(self.best[1])
        return self


def pretrain(net, loader, epochs=5):
    opt = optim.Adam(net.parameters(), lr=3e-3)
    net.train()
    for _ in range(epochs):
        for x, y in loader:
            opt.zero_grad()
            F.cross_entropy(net(x), y).backward()
            opt.step()
    return net


def make_loaders(seed):
    d = load_digits()
    x = torch.tensor(d.images[:, None], dtype=torch.float32).div_(16).sub_(0.3).div_(0.38)
    y = torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(55))
    pool, val, test = p[:1100], p[1100:1350], p[1350:]
    few = pool[torch.randperm(1100, generator=torch.Generator().manual_seed(seed))[:300]]
    make = lambda i, bs, shuffle=False: DataLoader(TensorDataset(x[i], y[i]), batch_size=bs, shuffle=shuffle)
    return {"pool": make(pool, 50, True), "train": make(few, 30, True), "val": make(val, 250), "test": make(test, 250)}


if __name__ == "__main__":
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--kd-weight", type=float, default=0.6)
    cli = cli.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(cli.seed)
    loaders = make_loaders(cli.seed)
    engine = KDEngine(pretrain(DigitNet(24, 0.2), loaders["pool"]), DigitNet(6, 0.0), loaders, kd_weight=cli.kd_weight).fit()
    print("val", " ".join(f"{v:.1f}" for v in engine.history["val"]))
    print(f"top1 {engine.validate('test'):.2f}")
