import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class BigNet(nn.Module):
    def __init__(self, p=0.7):
        super().__init__()
        self.p = p
        self.a, self.b, self.c = nn.Linear(64, 128), nn.Linear(128, 128), nn.Linear(128, 10)

    def forward(self, x):
        x = F.dropout(F.relu(self.a(x)), self.p)
        x = F.dropout(F.relu(self.b(x)), self.p)
        return self.c(x)


def train_teacher(x, y):
    net = BigNet()
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    net.train()
    for _ in range(500):
        b = torch.randint(len(x), (64,))
        opt.zero_grad()
        F.cross_entropy(net(x[b]), y[b]).backward()
        opt.step()
    return net


def kd_step(student, teacher, x, opt, T=2.0):
    teacher.eval()
    with torch.no_grad():
        soft = (teacher(x) / T).softmax(1)
    loss = F.cross_entropy(student(x) / T, soft) * T**2
    opt.zero_grad()
    loss.backward()
    opt.step()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(61))
    x, y = x[p], y[p]
    top1 = lambda m: 100 * (m.eval()(x[1200:]).argmax(1) == y[1200:]).float().mean().item()
    teacher = train_teacher(x[:1200], y[:1200])
    print(f"teacher {top1(teacher):.2f}")
    student = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    opt = torch.optim.Adam(student.parameters(), lr=6e-3)
    for _ in range(300):
        kd_step(student, teacher, x[torch.randint(300, (32,))], opt)
    print(f"top1 {top1(student):.2f}")


if __name__ == "__main__":
    main()
