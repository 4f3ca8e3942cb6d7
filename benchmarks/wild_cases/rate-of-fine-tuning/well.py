"""Plain script with a dict of settings."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

cfg = {
    "lr": 5e-2,
    "momentum": 0.9,
    "batch": 32,
    "epochs": 50,
    "T": 4.0,
    "gamma": 0.7,
}


def plain(width):
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(width, 2 * width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * width, 10),
    )


def run(cfg, teacher, student, x, y):
    opt = torch.optim.SGD(student.parameters(), lr=cfg["lr"], momentum=cfg["momentum"])
    teacher.eval()
    student.train()
    for _ in range(cfg["epochs"]):
        for b in torch.randperm(len(x)).split(cfg["batch"]):
            with torch.no_grad():
                t = teacher(x[b]) / cfg["T"]
            s = student(x[b])
            kd = (t.softmax(1) * (t.log_softmax(1) - (s / cfg["T"]).log_softmax(1))).sum(1).mean()
            loss = cfg["gamma"] * cfg["T"] ** 2 * kd + (1 - cfg["gamma"]) * F.cross_entropy(s, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(73))
    train, test = p[:1200], p[1200:]
    teacher = plain(16)
    opt = torch.optim.Adam(teacher.parameters(), lr=4e-3)
    for _ in range(16):
        for b in train[torch.randperm(1200)].split(60):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    student = plain(3)
    few = train[torch.randperm(1200)[:256]]
    run(cfg, teacher, student, x[few], y[few])
    student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
