import argparse
import os
import tempfile

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

SPEC = {"teacher": dict(hidden=128, depth=2), "student": dict(hidden=10, depth=1)}


def build(role):
    hidden, depth = SPEC[role]["hidden"], SPEC[role]["depth"]
    layers, size = [], 64
    for _ in range(depth):
        layers.extend([nn.Linear(size, hidden), nn.BatchNorm1d(hidden), nn.ReLU()])
        size = hidden
    return nn.Sequential(*layers, nn.Linear(size, 10))


def save_teacher(path, x, y, epochs=10):
    net = build("teacher")
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(60):
            opt.zero_grad()
            F.cross_entropy(net(x[b]), y[b]).backward()
            opt.step()
    torch.save({"model": net.state_dict(), "spec": SPEC["teacher"]}, path)


def restore(path):
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    assert checkpoint["spec"] == SPEC["teacher"]
    build("teacher").load_state_dict(checkpoint["model"])
    net = build("teacher")
    return net.eval().requires_grad_(False)


def train_student(teacher, x, y, epochs=50, T=3.0, alpha=0.8):
    student = build("student")
    opt = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    student.train()
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(25):
            t, s = teacher(x[b]), student(x[b])
            kd = F.kl_div(F.log_softmax(s / T, 1), F.softmax(t / T, 1), reduction="none").sum(1).mean()
            loss = alpha * T**2 * kd + (1 - alpha) * F.cross_entropy(s, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    return student.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    opt = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(opt.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(303))
    train, test = p[:1200], p[1200:]
    few = train[torch.randperm(1200)[:200]]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "teacher.pt")
        save_teacher(path, x[train], y[train])
        teacher = restore(path)
    student = train_student(teacher, x[few], y[few])
    with torch.no_grad():
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
