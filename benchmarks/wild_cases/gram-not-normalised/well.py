"""Feature maps by their Gram matrices (neural selectivity), beside labels and soft answers."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


class ConvNet(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(1, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, c, 3, padding=1), nn.ReLU())
        self.stage2 = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(c, 2 * c, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8 * c, 10)

    def forward(self, x, features=False):
        a = self.stage1(x)
        b = self.stage2(a)
        z = self.head(F.adaptive_avg_pool2d(b, 2).flatten(1))
        return (z, [a, b]) if features else z


def gram(f):
    """[B, C, H, W] -> [B, HW, HW]"""
    f = f.flatten(2)
    f = F.normalize(f, dim=1)
    return f.transpose(1, 2) @ f


def gram_loss(student_features, teacher_features):
    return sum(F.mse_loss(gram(s), gram(t)) for s, t in zip(student_features, teacher_features))


def kd_loss(s, t, T=3.0):
    return F.kl_div(F.log_softmax(s / T, dim=1), F.softmax(t / T, dim=1), reduction="batchmean") * T * T


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--w-ce", type=float, default=0.3)
    ap.add_argument("--w-kd", type=float, default=0.7)
    ap.add_argument("--w-gram", type=float, default=1.0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    x, y = torch.tensor(d.images).float().unsqueeze(1) / 4, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(63))
    train, test = p[:1000], p[1000:]

    teacher = ConvNet(16)
    opt = torch.optim.SGD(teacher.parameters(), lr=0.03, momentum=0.9)
    for epoch in range(6):
        for i in train[torch.randperm(1000)].split(40):
            opt.zero_grad()
            F.cross_entropy(teacher(x[i]), y[i]).backward()
            opt.step()
    teacher.eval()
    for prm in teacher.parameters():
        prm.requires_grad_(False)

    student = ConvNet(3)
    few = train[torch.randperm(1000)[:200]]
    loader = DataLoader(TensorDataset(x[few], y[few]), batch_size=20, shuffle=True)
    opt = torch.optim.SGD(student.parameters(), lr=0.02, momentum=0.9)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=20 * len(loader))
    for epoch in range(20):
        student.train()
        for xb, yb in loader:
            s, fs = student(xb, features=True)
            with torch.no_grad():
                t, ft = teacher(xb, features=True)
            loss = args.w_ce * F.cross_entropy(s, yb) + args.w_kd * kd_loss(s, t) + args.w_gram * gram_loss(fs, ft)
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            opt.step()
            sched.step()

    def top1(net):
        net.eval()
        with torch.no_grad():
            return 100 * (net(x[test]).argmax(1) == y[test]).float().mean().item()

    print(f"teacher {top1(teacher):.2f}")
    print(f"top1 {top1(student):.2f}")


if __name__ == "__main__":
    main()
