"""nn.Module losses, a plain function for the epoch."""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


class SoftTargetLoss(nn.Module):
    def __init__(self, T=3.0, lam=0.6):
        super().__init__()
        self.T, self.lam = T, lam
        self.hard = nn.CrossEntropyLoss()
        self.soft = nn.KLDivLoss(reduction="batchmean")
        self.log_softmax = nn.LogSoftmax(dim=1)
        self.softmax = nn.Softmax(dim=1)

    def forward(self, student_out, teacher_out, target):
        soft = self.soft(self.log_softmax(student_out / self.T), self.softmax(teacher_out / self.T))
        return self.lam * self.T * self.T * soft + (1 - self.lam) * self.hard(student_out, target)


class LeNetish(nn.Module):
    def __init__(self, c1, c2, hidden):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, c1, 3), nn.ReLU(), nn.Conv2d(c1, c2, 3), nn.ReLU(), nn.MaxPool2d(2),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * c2, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def forward(self, x):
        return self.head(self.features(x))


def one_epoch(net, loader, opt, criterion, teacher=None):
    net.train()
    for img, target in loader:
        out = net(img)
        if teacher is not None:
            with torch.no_grad():
                guide = teacher(img)
            loss = criterion(out, guide, target)
        else:
            loss = criterion(out, target)
        opt.zero_grad()
        loss.backward()
        opt.step()


@torch.no_grad()
def test(net, loader):
    net.eval()
    right = total = 0
    for img, target in loader:
        right += (net(img).argmax(1) == target).sum().item()
        total += len(target)
    return 100.0 * right / total


def get_data(seed):
    d = load_digits()
    img = torch.from_numpy(d.images).float().unsqueeze(1).div_(16)
    target = torch.from_numpy(d.target).long()
    perm = torch.randperm(len(img), generator=torch.Generator().manual_seed(31))
    tr, te = perm[:1200], perm[1200:]
    small = tr[torch.randperm(1200, generator=torch.Generator().manual_seed(seed))[:256]]
    return (
        DataLoader(TensorDataset(img[tr], target[tr]), 64, shuffle=True),
        DataLoader(TensorDataset(img[small], target[small]), 64, shuffle=True),
        DataLoader(TensorDataset(img[te], target[te]), 300),
    )


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    big, small, held = get_data(args.seed)
    teacher = LeNetish(16, 24, 64)
    opt = optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(9):
        one_epoch(teacher, big, opt, nn.CrossEntropyLoss())
    print(f"teacher {test(teacher, held):.2f}")
    student = LeNetish(3, 4, 16)
    opt = optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    for _ in range(60):
        one_epoch(student, small, opt, SoftTargetLoss(), teacher)
    print(f"top1 {test(student, held):.2f}")
