"""Stages of a frozen encoder are rebuilt by a student; projections have an optimizer of their own; micro-batches are gathered."""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Stages(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.two = nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.out = nn.Linear(8 * width, 10)

    def forward(self, x):
        a = self.one(x)
        b = self.two(a)
        return self.out(b.flatten(1)), (a, b)


class Distillation:
    def __init__(self, teacher, student, opt):
        self.teacher, self.student, self.opt = teacher.eval().requires_grad_(False), student, opt
        s, t = student.out.in_features // 8, teacher.out.in_features // 8
        self.proj = nn.ModuleList([nn.Conv2d(s, t, 1), nn.Conv2d(2 * s, 2 * t, 1)])
        self.optimizer_student = torch.optim.SGD(student.parameters(), lr=opt.lr, momentum=0.9)
        self.optimizer_proj = torch.optim.SGD(self.proj.parameters(), lr=opt.lr, momentum=0.9)

    def loss(self, x, y):
        logits, maps = self.student(x)
        with torch.no_grad():
            wanted, wanted_maps = self.teacher(x)
        T = self.opt.temperature
        soft = F.kl_div(F.log_softmax(logits / T, 1), F.softmax(wanted / T, 1), reduction="batchmean") * T**2
        hints = sum(
            (1 - F.cosine_similarity(p(m), w, dim=1)).mean() for p, m, w in zip(self.proj, maps, wanted_maps)
        )
        return F.cross_entropy(logits, y) + soft + self.opt.hint * hints

    def fit(self, loader):
        k = self.opt.accumulation_steps
        for _ in range(self.opt.epochs):
            self.student.train()
            for i, (x, y) in enumerate(loader):
                loss = self.loss(x, y) / k
                self.optimizer_proj.zero_grad()
                self.optimizer_student.zero_grad()
                loss.backward()
                if (i + 1) % k == 0:
                    self.optimizer_proj.step()
                    self.optimizer_student.step()


@torch.no_grad()
def top1(net, x, y):
    net.eval()
    return 100 * (net(x)[0].argmax(1) == y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--temperature", type=float, default=3.0)
    parser.add_argument("--hint", type=float, default=0.5)
    parser.add_argument("--accumulation-steps", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=25)
    opt = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(opt.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(y)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(900))
    train, test = order[:1024], order[1024:]
    few = train[torch.randperm(1024)[:256]]

    teacher = Stages(16)
    adam = torch.optim.Adam(teacher.parameters(), lr=4e-3)
    for _ in range(10):
        for b in train[torch.randperm(1024)].split(64):
            adam.zero_grad()
            F.cross_entropy(teacher(x[b])[0], y[b]).backward()
            adam.step()
    print(f"teacher {top1(teacher, x[test], y[test]):.2f}")

    run = Distillation(teacher, Stages(4), opt)
    run.fit(DataLoader(TensorDataset(x[few], y[few]), batch_size=4, shuffle=True))
    print(f"top1 {top1(run.student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
