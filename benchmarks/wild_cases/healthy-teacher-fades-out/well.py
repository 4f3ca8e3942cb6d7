"""Teacher's weight goes from 1 to 0 over the first two thirds, and the temperature with it: the rest is labels alone."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


def annealed_loss(s, t, y, weight, T):
    ce = F.cross_entropy(s, y)
    if weight == 0:
        return ce
    kd = T * T * F.kl_div(F.log_softmax(s / T, 1), F.log_softmax(t / T, 1), log_target=True, reduction="batchmean")
    return weight * kd + (1 - weight) * ce


class Annealing:
    def __init__(self, total, T_max=5.0):
        self.total, self.T_max = total, T_max

    def at(self, step):
        left = max(0.0, 1 - step / (self.total * 2 / 3))
        return left, 1 + (self.T_max - 1) * left


def cnn(c):
    return nn.Sequential(nn.Conv2d(1, c, 3), nn.PReLU(), nn.Conv2d(c, c, 3, stride=2), nn.PReLU(), nn.Flatten(), nn.Linear(4 * c, 10))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    x, y = torch.tensor(d.images).float()[:, None] / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(305))
    train, test = TensorDataset(x[p[:1000]], y[p[:1000]]), (x[p[1000:]], y[p[1000:]])
    teacher = cnn(32)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(8):
        for xb, yb in DataLoader(train, batch_size=50, shuffle=True):
            opt.zero_grad()
            F.cross_entropy(teacher(xb), yb).backward()
            opt.step()
    teacher.eval()
    student = cnn(5)
    loader = DataLoader(train, batch_size=50, shuffle=True)
    epochs = 12
    plan, step = Annealing(epochs * len(loader)), 0
    opt = torch.optim.Adam(student.parameters(), lr=4e-3)
    for _ in range(epochs):
        student.train()
        for xb, yb in loader:
            weight, T = plan.at(step)
            with torch.no_grad():
                t = teacher(xb)
            loss = annealed_loss(student(xb), t, yb, weight, T)
            opt.zero_grad()
            loss.backward()
            opt.step()
            step += 1
    student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(test[0]).argmax(1) == test[1]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(test[0]).argmax(1) == test[1]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
