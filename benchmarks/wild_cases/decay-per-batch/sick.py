import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import DataLoader, TensorDataset


class Perceptron(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.l1 = nn.Linear(64, hidden)
        self.bn = nn.BatchNorm1d(hidden)
        self.l2 = nn.Linear(hidden, 10)

    def forward(self, x):
        return self.l2(F.relu(self.bn(self.l1(x))))


class KD:
    def __init__(self, teacher, student, loader, epochs=40):
        self.teacher, self.student, self.loader, self.epochs = teacher, student, loader, epochs
        self.opt = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        self.sched = MultiStepLR(self.opt, milestones=[epochs // 2, 3 * epochs // 4], gamma=0.1)

    def loss(self, s, t, y, T=4.0, a=0.5):
        soft = F.kl_div(F.log_softmax(s / T, 1), F.softmax(t / T, 1), reduction="batchmean")
        return a * T**2 * soft + (1 - a) * F.cross_entropy(s, y)

    def train(self):
        self.teacher.eval()
        for _ in range(self.epochs):
            self.student.train()
            for x, y in self.loader:
                with torch.no_grad():
                    t = self.teacher(x)
                loss = self.loss(self.student(x), t, y)
                self.opt.zero_grad()
                loss.backward()
                self.opt.step()
                self.sched.step()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    xa, xb, ya, yb = (torch.tensor(v) for v in train_test_split(x / 16, y, test_size=0.33, random_state=4))
    xa, xb = xa.float(), xb.float()
    teacher = Perceptron(192)
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(10):
        for i in torch.randperm(len(xa)).split(64):
            if len(i) < 2:
                continue
            opt.zero_grad()
            F.cross_entropy(teacher(xa[i]), ya[i]).backward()
            opt.step()
    few = torch.randperm(len(xa))[:192]
    student = Perceptron(12)
    KD(teacher, student, DataLoader(TensorDataset(xa[few], ya[few]), batch_size=16, shuffle=True)).train()
    student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(xb).argmax(1) == yb).float().mean().item():.2f}")
        print(f"top1 {100 * (student(xb).argmax(1) == yb).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
