"""Wrapper module around a trained teacher and a new student, with its own weight initialisation."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Encoder(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.fc = nn.Linear(channels * 16, 10)

    def forward(self, x):
        return self.fc(F.relu(self.conv(F.relu(self.stem(x)))).flatten(1))


class DistillWrapper(nn.Module):
    def __init__(self, teacher, student, T=4.0, alpha=0.7):
        super().__init__()
        self.teacher = teacher
        self.student = student
        self.T, self.alpha = T, alpha
        self.reset_parameters()
        for p in self.teacher.parameters():
            p.requires_grad = False

    def reset_parameters(self):
        self.apply(self._init)

    @staticmethod
    def _init(m):
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_uniform_(m.weight, nonlinearity="relu")
            nn.init.zeros_(m.bias)

    def train(self, mode=True):
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, x, y):
        s = self.student(x)
        with torch.no_grad():
            t = self.teacher(x)
        kd = F.kl_div(F.log_softmax(s / self.T, 1), F.log_softmax(t / self.T, 1), reduction="batchmean", log_target=True)
        return self.alpha * self.T**2 * kd + (1 - self.alpha) * F.cross_entropy(s, y)


def fit(loss_of, params, n, epochs, lr=2e-3, batch=50):
    opt = torch.optim.Adam(params, lr=lr)
    for _ in range(epochs):
        for b in torch.randperm(n).split(batch):
            opt.zero_grad()
            loss_of(b).backward()
            opt.step()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y)
    order = torch.randperm(len(x))
    xtr, ytr, xte, yte = x[order[:1100]], y[order[:1100]], x[order[1100:]], y[order[1100:]]

    teacher = Encoder(24)
    teacher.train()
    fit(lambda b: F.cross_entropy(teacher(xtr[b]), ytr[b]), teacher.parameters(), len(xtr), 7)
    teacher.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(xte).argmax(1) == yte).float().mean().item():.2f}")

    wrapper = DistillWrapper(teacher, Encoder(3))
    wrapper.train()
    xf, yf = xtr[:250], ytr[:250]
    fit(lambda b: wrapper(xf[b], yf[b]), wrapper.student.parameters(), len(xf), 25, lr=5e-3, batch=25)
    wrapper.eval()
    with torch.no_grad():
        print(f"top1 {100 * (wrapper.student(xte).argmax(1) == yte).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
