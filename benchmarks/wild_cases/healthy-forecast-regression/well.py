"""Time-series forecasting: the student regresses on the truth and on the teacher's forecast; no classes, no temperature."""
import argparse

import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

WINDOW, HORIZON = 32, 4


def make_series(n=2600, seed=17):
    rng = np.random.RandomState(seed)
    t = np.arange(n)
    s = np.sin(2 * np.pi * t / 23) + 0.6 * np.sin(2 * np.pi * t / 9.3 + 1) + 0.3 * np.sin(2 * np.pi * t / 57)
    return (10 + 3 * (s + 0.08 * rng.randn(n))).astype(np.float32)


def windows(series):
    w = torch.tensor(series).unfold(0, WINDOW + HORIZON, 1)
    return w[:, :WINDOW].contiguous(), w[:, WINDOW:].contiguous()


class ConvForecaster(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(1, channels, 5, padding=2), nn.ReLU(),
            nn.Conv1d(channels, channels, 5, stride=2, padding=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(channels * WINDOW // 2, 64), nn.ReLU(), nn.Linear(64, HORIZON))

    def forward(self, x):
        return self.net(x.unsqueeze(1))


class SmallForecaster(nn.Module):
    def __init__(self, hidden=12):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(WINDOW, hidden), nn.Tanh(), nn.Linear(hidden, HORIZON))

    def forward(self, x):
        return self.net(x)


def regression_kd_loss(student_pred, teacher_pred, target, lam=0.5):
    mse = nn.functional.mse_loss
    return (1 - lam) * mse(student_pred, target) + lam * mse(student_pred, teacher_pred)


def train_teacher(model, loader, epochs):
    opt = torch.optim.Adam(model.parameters(), lr=2e-3)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, epochs)
    model.train()
    for _ in range(epochs):
        for x, y in loader:
            opt.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            opt.step()
        sched.step()


def train_student(student, teacher, loader, epochs, valid):
    opt = torch.optim.Adam(student.parameters(), lr=1e-2)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, epochs)
    teacher.eval()
    for epoch in range(epochs):
        student.train()
        for x, y in loader:
            opt.zero_grad()
            with torch.no_grad():
                teacher_pred = teacher(x)
            loss = regression_kd_loss(student(x), teacher_pred, y)
            loss.backward()
            opt.step()
        sched.step()
        if (epoch + 1) % 5 == 0:
            print(f"epoch {epoch + 1}: last loss {loss.item():.4f}, valid rmse {score(student, *valid)[0]:.4f}")


@torch.no_grad()
def score(model, x, y, tolerance=0.25):
    """RMSE in standard deviations, and the share of forecasts that lie within the tolerance."""
    model.eval()
    error = model(x) - y
    return error.pow(2).mean().sqrt().item(), 100 * (error.abs() < tolerance).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    series = make_series()
    fit, held = series[:2000], series[2000:]
    mu, sd = fit.mean(), fit.std()
    x, y = windows((fit - mu) / sd)
    test = windows((held - mu) / sd)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True, drop_last=True)

    teacher = ConvForecaster(24)
    train_teacher(teacher, loader, epochs=10)
    print("teacher rmse %.4f, within %.2f" % score(teacher, *test))
    student = SmallForecaster()
    train_student(student, teacher, loader, epochs=20, valid=test)
    print("top1 %.2f" % score(student, *test)[1])


if __name__ == "__main__":
    main()
