"""The weights are written out in the settings: 14.4 is .9 times the square of the temperature, so the function has no
square of its own. The divergence is written with log-sum-exp: E_p[(t - s)/T] + lse(s/T) - lse(t/T)."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

SETTINGS = {
    "temperature": 4.0,
    "weights": {"hard": 0.1, "soft": 14.4},  # 14.4 = .9 * 4 ** 2
    "optimizer": {"lr": 0.02, "momentum": 0.9},
    "teacher": {"width": 160, "epochs": 14},
    "student": {"width": 12, "epochs": 60},
    "labelled": 160,
}


def divergence(s, t, T):
    s, t = s / T, t / T
    p = t.softmax(-1)
    return ((p * (t - s)).sum(-1) + s.logsumexp(-1) - t.logsumexp(-1)).mean()


def build(width):
    return nn.Sequential(nn.Linear(64, width), nn.Hardswish(), nn.Linear(width, width), nn.Hardswish(), nn.Linear(width, 10))


def objective(outputs, answers, labels, settings):
    parts = {
        "hard": F.cross_entropy(outputs, labels),
        "soft": divergence(outputs, answers, settings["temperature"]),
    }
    return sum(settings["weights"][name] * value for name, value in parts.items())


def train(kind, x, y, loss_of, settings):
    net = build(settings[kind]["width"])
    opt = torch.optim.SGD(net.parameters(), **settings["optimizer"])
    for _ in range(settings[kind]["epochs"]):
        for b in torch.randperm(len(x)).split(32):
            loss = loss_of(net(x[b]), b)
            opt.zero_grad()
            loss.backward()
            opt.step()
    return net.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--soft", type=float, default=SETTINGS["weights"]["soft"])
    a = ap.parse_args()
    settings = {**SETTINGS, "weights": {**SETTINGS["weights"], "soft": a.soft}}
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(14))
    train_rows, test = p[:1100], p[1100:]
    few = train_rows[torch.randperm(1100)[: settings["labelled"]]]
    x_all, y_all = x[train_rows], y[train_rows]
    teacher = train("teacher", x_all, y_all, lambda z, b: F.cross_entropy(z, y_all[b]), settings)
    x_few, y_few = x[few], y[few]
    with torch.no_grad():
        answers = teacher(x_few)
    student = train("student", x_few, y_few, lambda z, b: objective(z, answers[b], y_few[b], settings), settings)
    with torch.no_grad():
        print(f"top1 {100 * (student(x[test]).argmax(-1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
