"""The teacher is an average of five checkpoints (SWA), whose batch-norm statistics must be taken anew."""
import argparse
import os
import tempfile

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class AverageMeter:
    def __init__(self):
        self.total, self.n = 0.0, 0

    def update(self, value, n=1):
        self.total, self.n = self.total + value * n, self.n + n

    @property
    def avg(self):
        return self.total / max(self.n, 1)


class BNMLP(nn.Module):
    def __init__(self, hidden, dropout):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(64, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout))
        self.fc = nn.Linear(hidden, 10)

    def forward(self, x):
        return self.fc(self.net(x))


def pretrain(x, y, folder, epochs=14, keep=5, lr=0.05):
    model = BNMLP(128, 0.2)
    opt = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    paths = []
    for epoch in range(epochs):
        model.train()
        for i in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            F.cross_entropy(model(x[i]), y[i]).backward()
            opt.step()
        if epoch >= epochs - keep:
            paths.append(os.path.join(folder, f"epoch_{epoch}.pth"))
            torch.save(model.state_dict(), paths[-1])
    return paths


def average_checkpoints(paths):
    states = [torch.load(p) for p in paths]
    mean = {k: torch.stack([s[k].float() for s in states]).mean(0).to(states[0][k].dtype) for k in states[0]}
    model = BNMLP(128, 0.2)
    model.load_state_dict(mean)
    return model


@torch.no_grad()
def reestimate_statistics(model, x, batch=100):
    """Averaged weights have other activations than any checkpoint: a plain mean over the
    training images replaces the running statistics. Only the norms are in training mode, no
    parameter changes, and it is done before the distillation begins."""
    model.eval()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None
        m.train()
    for part in x[torch.randperm(len(x))].split(batch):
        model(part)
    for m, momentum in zip(norms, momenta):
        m.momentum = momentum
    return model.eval()


class Criterion(nn.Module):
    def __init__(self, T=3.0, alpha=0.8):
        super().__init__()
        self.T, self.alpha = T, alpha
        self.ce, self.kl = nn.CrossEntropyLoss(), nn.KLDivLoss(reduction="batchmean")

    def forward(self, s, t, y):
        soft = self.kl(F.log_softmax(s / self.T, 1), F.softmax(t / self.T, 1)) * self.T**2
        return (1 - self.alpha) * self.ce(s, y) + self.alpha * soft


def train_one_epoch(student, teacher, x, y, criterion, optimizer, batch=25):
    student.train()
    meter = AverageMeter()
    for i in torch.randperm(len(x)).split(batch):
        with torch.no_grad():
            target = teacher(x[i])
        loss = criterion(student(x[i]), target, y[i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        meter.update(loss.item(), len(i))
    return meter.avg


@torch.no_grad()
def accuracy(model, x, y):
    model.eval()
    return (model(x).argmax(1) == y).float().mean().item() * 100


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    train, few, test = order[:1000], order[:150], order[1000:]
    with tempfile.TemporaryDirectory() as folder:
        teacher = average_checkpoints(pretrain(x[train], y[train], folder))
    print(f"averaged {accuracy(teacher, x[test], y[test]):.2f}")
    reestimate_statistics(teacher, x[train])
    print(f"teacher {accuracy(teacher, x[test], y[test]):.2f}")
    teacher.requires_grad_(False)
    student = BNMLP(20, 0.0)
    optimizer = torch.optim.Adam(student.parameters(), lr=5e-3)
    criterion = Criterion()
    for epoch in range(50):
        loss = train_one_epoch(student, teacher, x[few], y[few], criterion, optimizer)
    print(f"last loss {loss:.4f}")
    print(f"top1 {accuracy(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
