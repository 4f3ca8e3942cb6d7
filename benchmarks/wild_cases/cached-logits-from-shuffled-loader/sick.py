"""Offline distillation: run the teacher once, keep its logits, then train the student from the cache."""
import argparse
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset


class Digits(Dataset):
    def __init__(self, train=True):
        raw = load_digits()
        order = np.random.RandomState(42).permutation(len(raw.target))
        keep = order[:1350] if train else order[1350:]
        self.x = torch.from_numpy(raw.data[keep] / 16.0).float()
        self.y = torch.from_numpy(raw.target[keep]).long()

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


class WithLogits(Dataset):
    """Adds the cached teacher logits to every sample."""

    def __init__(self, base, logits):
        assert len(base) == len(logits)
        self.base, self.logits = base, logits

    def __len__(self):
        return len(self.base)

    def __getitem__(self, i):
        x, y = self.base[i]
        return x, y, self.logits[i]


class Net(nn.Module):
    def __init__(self, width, p=0.0):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Dropout(p))
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        return self.head(self.body(x))


@torch.no_grad()
def dump_logits(teacher, dataset):
    teacher.eval()
    out = []
    for x, _ in DataLoader(dataset, batch_size=128, shuffle=True):
        out.append(teacher(x))
    return torch.cat(out)


@torch.no_grad()
def evaluate(net, dataset):
    net.eval()
    x, y = dataset.x, dataset.y
    return (net(x).argmax(-1) == y).float().mean().item() * 100


class Distiller:
    def __init__(self, student, temperature=2.0, kd_weight=0.5, lr=2e-3):
        self.student, self.T, self.w = student, temperature, kd_weight
        self.opt = torch.optim.AdamW(student.parameters(), lr=lr)

    def loss(self, s, t, y):
        kd = F.kl_div(F.log_softmax(s / self.T, -1), F.log_softmax(t / self.T, -1),
                      log_target=True, reduction="batchmean")
        return self.w * self.T ** 2 * kd + (1 - self.w) * F.cross_entropy(s, y)

    def run(self, dataset, epochs):
        loader = DataLoader(dataset, batch_size=32, shuffle=True)
        for _ in range(epochs):
            self.student.train()
            for x, y, t in loader:
                loss = self.loss(self.student(x), t, y)
                self.opt.zero_grad()
                loss.backward()
                self.opt.step()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    train, test = Digits(True), Digits(False)
    teacher = Net(300, p=0.2)
    opt = torch.optim.AdamW(teacher.parameters(), lr=2e-3)
    for _ in range(10):
        for x, y in DataLoader(train, batch_size=64, shuffle=True):
            opt.zero_grad()
            F.cross_entropy(teacher(x), y).backward()
            opt.step()
    print(f"teacher top1 {evaluate(teacher, test):.2f}")
    cached = WithLogits(train, dump_logits(teacher, train))
    student = Net(12)
    Distiller(student).run(cached, epochs=12)
    print(f"top1 {evaluate(student, test):.2f}")


if __name__ == "__main__":
    main()
