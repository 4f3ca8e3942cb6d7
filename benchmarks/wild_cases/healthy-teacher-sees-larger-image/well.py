"""Low-resolution student: the teacher was trained on 16x16 images, normalized its own way, and gets
them during distillation as well; the student sees the 8x8 original of the same sample."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset, Subset


class TwoViews(Dataset):
    MEAN, STD = 0.305, 0.376

    def __init__(self):
        d = load_digits()
        small = torch.tensor(d.images, dtype=torch.float32)[:, None] / 16
        self.small = small
        self.large = (F.interpolate(small, size=(16, 16), mode="bilinear", align_corners=False) - self.MEAN) / self.STD
        self.label = torch.tensor(d.target)

    def __len__(self):
        return len(self.label)

    def __getitem__(self, i):
        return {"small": self.small[i], "large": self.large[i], "label": self.label[i]}


class LargeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 16, 5, stride=2, padding=2)
        self.b = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.out = nn.Linear(32 * 16, 10)

    def forward(self, x):
        return self.out(F.relu(self.b(F.relu(self.a(x)))).flatten(1))


class SmallNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 6, 3, stride=2, padding=1)
        self.out = nn.Linear(6 * 16, 10)

    def forward(self, x):
        return self.out(F.relu(self.a(x)).flatten(1))


def distillation(student_out, teacher_out, label, T, soft_share):
    soft_target = F.softmax(teacher_out / T, dim=1)
    soft = F.cross_entropy(student_out / T, soft_target) * T ** 2     # cross-entropy with soft targets
    return soft_share * soft + (1 - soft_share) * F.cross_entropy(student_out, label)


def teach(net, loader):
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(4):
        for b in loader:
            opt.zero_grad()
            F.cross_entropy(net(b["large"]), b["label"]).backward()
            opt.step()
    return net.eval()


def learn(net, teacher, loader, epochs, T, soft_share):
    opt = torch.optim.Adam(net.parameters(), lr=5e-3)
    net.train()
    for _ in range(epochs):
        for b in loader:
            with torch.no_grad():
                answer = teacher(b["large"])
            loss = distillation(net(b["small"]), answer, b["label"], T, soft_share)
            opt.zero_grad()
            loss.backward()
            opt.step()
    return net.eval()


@torch.no_grad()
def top1(net, loader, view):
    return 100 * sum((net(b[view]).argmax(1) == b["label"]).sum().item() for b in loader) / len(loader.dataset)


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--T", type=float, default=2.0)
    cli.add_argument("--soft-share", type=float, default=0.5)
    a = cli.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    ds = TwoViews()
    order = torch.randperm(len(ds)).tolist()
    train = DataLoader(Subset(ds, order[:1300]), batch_size=50, shuffle=True)
    test = DataLoader(Subset(ds, order[1300:]), batch_size=250)
    teacher = teach(LargeNet(), train)
    print(f"teacher {top1(teacher, test, 'large'):.2f}")
    student = learn(SmallNet(), teacher, train, 8, a.T, a.soft_share)
    print(f"top1 {top1(student, test, 'small'):.2f}")


if __name__ == "__main__":
    main()
