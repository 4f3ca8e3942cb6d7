"""Step 1 trains a teacher and writes a checkpoint; step 2 reads it back and distils into a small net."""
import argparse
import os
import tempfile

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def make_net(hidden):
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def step_one(path, x, y, x_val, y_val):
    net = make_net(192)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    epochs = 15
    for epoch in range(epochs):
        net.train()
        for i in torch.randperm(len(x)).split(40):
            optimizer.zero_grad()
            F.cross_entropy(net(x[i]), y[i]).backward()
            optimizer.step()
    print(f"teacher {accuracy(net, x_val, y_val):.2f}")
    torch.save({"epoch": epochs, "state_dict": net.state_dict(), "optimizer": optimizer.state_dict()}, path)


def load_teacher(path):
    teacher = make_net(192)
    checkpoint = torch.load(path, map_location="cpu")
    teacher.load_state_dict(checkpoint["state_dict"])
    teacher.eval()
    teacher.requires_grad_(False)
    return teacher


def kd(s, t, T):
    return F.kl_div((s / T).log_softmax(-1), (t / T).softmax(-1), reduction="batchmean") * T ** 2


def step_two(teacher, student, x, y, epochs=20, T=2.0, w=0.8):
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    for epoch in range(epochs):
        student.train()
        for i in torch.randperm(len(x)).split(40):
            with torch.no_grad():
                t = teacher(x[i])
            s = student(x[i])
            loss = w * kd(s, t, T) + (1 - w) * F.cross_entropy(s, y[i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def accuracy(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x).argmax(-1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    y = torch.tensor(digits.target)
    perm = torch.randperm(len(x), generator=torch.Generator().manual_seed(33))
    train, val = perm[:1200], perm[1200:]
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "teacher.pt")
        step_one(path, x[train], y[train], x[val], y[val])
        teacher = load_teacher(path)
    student = make_net(16)
    step_two(teacher, student, x[train], y[train])
    print(f"top1 {accuracy(student, x[val], y[val]):.2f}")


if __name__ == "__main__":
    main()
