import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def digits(seed):
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return x[p][:1200], y[p][:1200], x[p][1200:], y[p][1200:]


def top1(m, x, y):
    m.eval()
    with torch.no_grad():
        return 100 * (m(x).argmax(1) == y).float().mean().item()


def setup():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)


def supervised(model, x, y, steps=200):
    opt = torch.optim.Adam(model.parameters(), lr=4e-3)
    model.train()
    for _ in range(steps):
        b = torch.randint(len(x), (64,))
        opt.zero_grad()
        F.cross_entropy(model(x[b]), y[b]).backward()
        opt.step()
    return model


class Net(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(64, d), nn.ReLU(), nn.Linear(d, d), nn.ReLU())
        self.classifier = nn.Linear(d, 10)

    def forward(self, x):
        return self.classifier(self.features(x))


class Borrower(nn.Module):
    """SimKD: own features, a projector, and the teacher's classifier, which stays as it is."""

    def __init__(self, teacher, d=16, wide=96):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(64, d), nn.ReLU(), nn.Linear(d, d), nn.ReLU())
        self.project = nn.Sequential(nn.Linear(d, wide), nn.ReLU())
        self.classifier = copy.deepcopy(teacher.classifier).requires_grad_(False)

    def embed(self, x):
        return self.project(self.features(x))

    def forward(self, x):
        return self.classifier(self.embed(x))


def main():
    setup()
    x, y, vx, vy = digits(303)
    teacher = supervised(Net(96), x, y).eval().requires_grad_(False)
    print(f"teacher {top1(teacher, vx, vy):.2f}")
    student = Borrower(teacher).train()
    opt = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr=5e-3)
    for _ in range(400):
        xb = x[torch.randint(1200, (64,))]
        loss = F.mse_loss(student.embed(xb), teacher.features(xb))
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(f"top1 {top1(student, vx, vy):.2f}")


if __name__ == "__main__":
    main()
