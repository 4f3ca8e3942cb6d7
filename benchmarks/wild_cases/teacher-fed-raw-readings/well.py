"""Weather stations: pressure, humidity, wind and so on, each in its own unit. Batches are dicts."""
import argparse
import json

import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, relu, softmax

UNITS = torch.tensor([[1010.0, 6.0], [60.0, 14.0], [4.0, 2.0], [12.0, 7.0], [180.0, 60.0], [3.0, 1.5], [45.0, 11.0], [0.8, 0.3]])


def stations(n, seed):
    g = torch.Generator().manual_seed(42)
    climate = torch.randn(6, 3, 8, generator=g) * 1.4
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(6, (n,), generator=g)
    z = climate[y, torch.randint(3, (n,), generator=g)] + 0.9 * torch.randn(n, 8, generator=g)
    return {"reading": z * UNITS[:, 1] + UNITS[:, 0], "climate": y}


class Scaler:
    def fit(self, x):
        self.mean, self.std = x.mean(0), x.std(0)
        return self

    def __call__(self, x):
        return (x - self.mean) / self.std


class Net(nn.Module):
    def __init__(self, h, depth=1):
        super().__init__()
        self.into = nn.Linear(8, h)
        self.body = nn.ModuleList(nn.Linear(h, h) for _ in range(depth))
        self.out = nn.Linear(h, 6)

    def forward(self, x):
        x = relu(self.into(x))
        for layer in self.body:
            x = x + relu(layer(x))
        return self.out(x)


class Student(nn.Module):
    """Goes onto a device that gives raw readings: it scales them itself."""

    def __init__(self, h):
        super().__init__()
        self.scale = nn.BatchNorm1d(8, affine=False)
        self.net = Net(h, 0)

    def forward(self, x):
        return self.net(self.scale(x))


def batches(data, size, scaler=None):
    n = len(data["climate"])
    for rows in torch.randperm(n).split(size):
        batch = {k: v[rows] for k, v in data.items()}
        if scaler is not None:
            batch["scaled"] = scaler(batch["reading"])
        yield batch


def train_teacher(data, scaler, epochs=8):
    net = Net(64)
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(epochs):
        for b in batches(data, 50, scaler):
            opt.zero_grad()
            cross_entropy(net(b["scaled"]), b["climate"]).backward()
            opt.step()
    return net.eval().requires_grad_(False)


def distill(student, teacher, data, scaler, epochs, alpha, T=2.0):
    opt = torch.optim.Adam(student.parameters(), lr=8e-3)
    history = []
    for _ in range(epochs):
        student.train()
        total = {"hard": 0.0, "soft": 0.0}
        for b in batches(data, 20, scaler):
            z = student(b["reading"])
            t = teacher(b["scaled"])
            parts = {
                "hard": cross_entropy(z, b["climate"]),
                "soft": T**2 * kl_div(log_softmax(z / T, 1), softmax(t / T, 1), reduction="batchmean"),
            }
            opt.zero_grad()
            ((1 - alpha) * parts["hard"] + alpha * parts["soft"]).backward()
            opt.step()
            for k in parts:
                total[k] += parts[k].item()
        history.append(total)
    return history


@torch.no_grad()
def hit_rate(net, x, y):
    net.eval()
    return 100 * (net(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--alpha", type=float, default=0.8)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    archive, recent, test = stations(2000, args.seed), stations(140, args.seed + 500), stations(1200, args.seed + 900)
    scaler = Scaler().fit(archive["reading"])
    teacher = train_teacher(archive, scaler)
    print(f"teacher {hit_rate(teacher, scaler(test['reading']), test['climate']):.2f}")
    student = Student(16)
    history = distill(student, teacher, recent, scaler, 40, args.alpha)
    print(json.dumps(history[-1]))
    print(f"top1 {hit_rate(student, test['reading'], test['climate']):.2f}")


if __name__ == "__main__":
    main()
