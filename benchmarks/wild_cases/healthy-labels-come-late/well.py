import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def digits(seed):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(901))
    return x[p], y[p]


def mlp(width):
    return nn.Sequential(nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10))


def pretrain(net, x, y, epochs=12):
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(60):
            opt.zero_grad()
            F.cross_entropy(net(x[b]), y[b]).backward()
            opt.step()
    return net.eval()


def seed_of():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    return ap.parse_args().seed

class Runner:
    def __init__(self, student, teacher, warm=4):
        self.student, self.teacher, self.warm = student, teacher, warm
        self.opt = torch.optim.RMSprop(student.parameters(), lr=1e-3)
        self.log = {"ce": [], "kd": []}

    def step(self, x, y, epoch):
        z = self.student(x)
        with torch.no_grad():
            t = self.teacher(x)
        ce = F.cross_entropy(z, y)
        kd = 4 * F.kl_div(F.log_softmax(z / 2, 1), F.softmax(t / 2, 1), reduction="batchmean")
        self.log["ce"].append(ce.item())
        self.log["kd"].append(kd.item())
        loss = kd if epoch < self.warm else 0.5 * ce + 0.5 * kd
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()

    def run(self, loader, epochs):
        for epoch in range(epochs):
            self.student.train()
            for x, y in loader:
                self.step(x, y, epoch)


def main():
    x, y = digits(seed_of())
    teacher = pretrain(mlp(96), x[:1200], y[:1200])
    student = mlp(12)
    Runner(student, teacher).run(DataLoader(TensorDataset(x[:300], y[:300]), batch_size=30, shuffle=True), 25)
    student.eval()
    with torch.no_grad():
        print(f"top1 {100 * (student(x[1200:]).argmax(1) == y[1200:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
