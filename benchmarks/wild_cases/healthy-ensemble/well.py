"""Three teachers of three kinds; the student learns from the mean of their softened probabilities."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Rows(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.gru = nn.GRU(8, hidden, batch_first=True)
        self.out = nn.Linear(hidden, 10)

    def forward(self, x):
        return self.out(self.gru(x)[1][-1])


class Conv(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.out = nn.Linear(16 * width, 10)

    def forward(self, x):
        return self.out(F.max_pool2d(F.relu(self.bn(self.conv(x.unsqueeze(1)))), 2).flatten(1))


def dense(width, drop):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Dropout(drop), nn.Linear(width, 10))


class Ensemble(nn.ModuleList):
    @torch.no_grad()
    def soft_targets(self, x, T):
        self.eval()
        return torch.stack([F.softmax(m(x) / T, dim=1) for m in self]).mean(dim=0)


def kd(logits, soft_targets, T):
    return F.kl_div(F.log_softmax(logits / T, dim=1), soft_targets, reduction="batchmean") * T**2


def train_alone(model, x, y, epochs, lr):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(48):
            opt.zero_grad()
            F.cross_entropy(model(x[b]), y[b]).backward()
            opt.step()


def evaluate(predict, x, y):
    with torch.no_grad():
        return 100 * (predict(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--T", type=float, default=3.0)
    ap.add_argument("--alpha", type=float, default=0.7)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    d = load_digits()
    x, y = torch.tensor(d.images, dtype=torch.float32) / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(222))
    train, test = p[:1200], p[1200:]

    teachers = Ensemble([Rows(40), Conv(12), dense(128, 0.3)])
    for t, epochs, lr in zip(teachers, (10, 6, 12), (6e-3, 4e-3, 3e-3)):
        train_alone(t, x[train], y[train], epochs, lr)
    score = evaluate(lambda v: teachers.soft_targets(v, 1.0), x[test], y[test])
    print(f"ensemble {score:.2f}")

    student = dense(12, 0.0)
    opt = torch.optim.Adam(student.parameters(), lr=5e-3)
    few = train[torch.randperm(len(train))[:240]]
    for _ in range(35):
        student.train()
        for b in torch.randperm(len(few)).split(40):
            bx, by = x[few[b]], y[few[b]]
            logits = student(bx)
            soft = teachers.soft_targets(bx, a.T)
            loss = a.alpha * kd(logits, soft, a.T) + (1 - a.alpha) * F.cross_entropy(logits, by)
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    print(f"top1 {evaluate(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
