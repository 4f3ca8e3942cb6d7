"""FitNets-like: a middle map of the teacher is the hint for the student's, through a 1x1 convolution."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


class SmallCNN(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(1, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU(), nn.MaxPool2d(2))
        self.block2 = nn.Sequential(nn.Conv2d(c, 2 * c, 3, padding=1), nn.BatchNorm2d(2 * c), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(8 * c, 10)

    def forward(self, x):
        return self.head(self.pool(self.block2(self.block1(x))).flatten(1))


class HintDistiller(nn.Module):
    def __init__(self, student, teacher, c_s, c_t, temp=4.0, w_hint=1.0, w_kd=0.5):
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.connector = nn.Conv2d(c_s, c_t, 1)
        self.temp, self.w_hint, self.w_kd = temp, w_hint, w_kd
        self.maps = {}
        student.block2.register_forward_hook(self.catch("s"))
        teacher.block2.register_forward_hook(self.catch("t"))
        for p in self.teacher.parameters():
            p.requires_grad = False

    def catch(self, key):
        def hook(module, args, output):
            self.maps[key] = output
        return hook

    def train(self, mode=True):
        super().train(mode)
        self.teacher.eval()
        return self

    def trainable(self):
        return [p for p in self.parameters() if p.requires_grad]

    def forward(self, x, y):
        with torch.no_grad():
            t = self.teacher(x)
        s = self.student(x)
        hint = F.mse_loss(self.connector(self.maps["s"]), self.maps["t"])
        kd = F.kl_div(
            F.log_softmax(s / self.temp, dim=1), F.softmax(t / self.temp, dim=1), reduction="batchmean"
        ) * self.temp ** 2
        ce = F.cross_entropy(s, y)
        return (1 - self.w_kd) * ce + self.w_kd * kd + self.w_hint * hint


def train_teacher(net, loader, epochs=6):
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        net.train()
        for x, y in loader:
            opt.zero_grad()
            F.cross_entropy(net(x), y).backward()
            opt.step()
    return net.eval()


def top1(net, x, y):
    net.eval()
    with torch.no_grad():
        return (net(x).argmax(1) == y).float().mean().item() * 100


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    x = (torch.tensor(d.images).float().unsqueeze(1) / 16 - 0.3) / 0.37
    y = torch.tensor(d.target)
    perm = torch.randperm(len(x), generator=torch.Generator().manual_seed(101))
    tr, te = perm[:1200], perm[1200:]
    loader = DataLoader(TensorDataset(x[tr], y[tr]), batch_size=60, shuffle=True)
    teacher = train_teacher(SmallCNN(16), loader)
    print(f"teacher {top1(teacher, x[te], y[te]):.2f}")
    student = SmallCNN(4)
    distiller = HintDistiller(student, teacher, c_s=8, c_t=32)
    opt = torch.optim.Adam(distiller.trainable(), lr=4e-3)
    for _ in range(12):
        distiller.train()
        for bx, by in loader:
            loss = distiller(bx, by)
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"top1 {top1(student, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
