"""Fine-tuning by distillation on small batches: batch norm keeps the statistics of the pretraining."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU())
        self.body = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        return self.head(self.body(self.stem(x)))


def freeze(net):
    net.stem.requires_grad_(False)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm1d):
            m.requires_grad_(False)


def train_mode(net):
    """train(), but for batch norm."""
    net.train()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm1d):
            m.eval()


def tune(student, teacher, x, y, epochs=30, tau=4.0):
    freeze(student)
    opt = torch.optim.SGD((p for p in student.parameters() if p.requires_grad), lr=0.02, momentum=0.9)
    teacher.eval()
    for _ in range(epochs):
        train_mode(student)
        for b in torch.randperm(len(x)).split(8):
            s = student(x[b])
            with torch.no_grad():
                t = teacher(x[b])
            kd = F.kl_div(F.log_softmax(s / tau, 1), F.softmax(t / tau, 1), reduction="batchmean") * tau**2
            loss = 0.5 * kd + 0.5 * F.cross_entropy(s, y[b])
            opt.zero_grad(set_to_none=True)
            loss.backward()
            opt.step()
    return student.eval()


def pretrain(net, x, y, epochs):
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    net.train()
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(60):
            opt.zero_grad()
            F.cross_entropy(net(x[b]), y[b]).backward()
            opt.step()
    return net.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(506))
    train, test = p[:1200], p[1200:]
    teacher = pretrain(Net(128), x[train], y[train], 10)
    student = pretrain(Net(16), x[train[:600]], y[train[:600]], 20)
    student = tune(student, teacher, x[train[:240]], y[train[:240]])
    with torch.no_grad():
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
