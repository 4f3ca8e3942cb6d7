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

class MultiTeacher:
    def __init__(self, teachers, student, weights=(0.5, 0.5)):
        self.teachers, self.student, self.weights = teachers, student, weights
        self.opt = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, nesterov=True)

    @torch.no_grad()
    def answer(self, x):
        return sum(w * teacher(x) for w, teacher in zip(self.weights, self.teachers))

    def fit(self, loader, epochs):
        for _ in range(epochs):
            self.student.train()
            for x, y in loader:
                z, t = self.student(x), self.answer(x)
                soft = F.kl_div(F.log_softmax(z / 3, 1), F.softmax(t / 3, 1), reduction="batchmean") * 9
                loss = 0.3 * F.cross_entropy(z, y) + 0.7 * soft
                self.opt.zero_grad()
                loss.backward()
                self.opt.step()


def main():
    x, y = digits(seed_of())
    first, second = (pretrain(mlp(width).train(), x[:1200], y[:1200]).train() for width in (96, 128))
    first.eval()
    second.eval()
    student = mlp(10)
    loader = DataLoader(TensorDataset(x[:240], y[:240]), batch_size=24, shuffle=True)
    MultiTeacher([first, second], student).fit(loader, 30)
    student.eval()
    with torch.no_grad():
        print(f"top1 {100 * (student(x[1200:]).argmax(1) == y[1200:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
