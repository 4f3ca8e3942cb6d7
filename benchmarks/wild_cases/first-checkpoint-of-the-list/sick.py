import argparse
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F


class Tanh3(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, n), nn.Linear(n, n), nn.Linear(n, 10)

    def forward(self, x):
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


def train_teacher(folder, x, y, epochs=20):
    net = Tanh3(128)
    opt = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    for epoch in range(epochs):
        for rows in torch.randperm(len(x)).split(100):
            opt.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            opt.step()
        torch.save(net.state_dict(), folder / f"epoch_{epoch:03d}.pt")


def load_teacher(folder):
    files = sorted(folder.glob("epoch_*.pt"))
    net = Tanh3(128)
    net.load_state_dict(torch.load(files[0], weights_only=True))
    net.eval()
    return net


def kd_step(student, teacher, x, y, temperature=2.0, alpha=0.9):
    with torch.no_grad():
        soft = torch.softmax(teacher(x) / temperature, dim=1)
    out = student(x)
    distill = F.kl_div(torch.log_softmax(out / temperature, dim=1), soft, reduction="sum") / len(x)
    return alpha * temperature**2 * distill + (1 - alpha) * F.cross_entropy(out, y)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(57))
    train, test = p[:1200], p[1200:]
    few = train[torch.randperm(1200)[:300]]
    with tempfile.TemporaryDirectory() as name:
        train_teacher(Path(name), x[train], y[train])
        teacher = load_teacher(Path(name))
    student = Tanh3(16)
    opt = torch.optim.Adam(student.parameters(), lr=3e-3)
    for _ in range(50):
        for rows in few[torch.randperm(len(few))].split(30):
            opt.zero_grad()
            kd_step(student, teacher, x[rows], y[rows]).backward()
            opt.step()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
