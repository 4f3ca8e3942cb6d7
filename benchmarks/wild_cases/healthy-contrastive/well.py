"""Contrastive: among the images of a batch the student must find the one whose teacher embedding matches its own (InfoNCE)."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Encoder(nn.Module):
    def __init__(self, c, out):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.fc = nn.Linear(16 * c, out)
        self.head = nn.Linear(out, 10)

    def forward(self, x):
        e = F.relu(self.fc(self.conv(x)))
        return self.head(e), e


class InfoNCE(nn.Module):
    def __init__(self, dim_s, dim_t, dim=32, tau=0.1):
        super().__init__()
        self.student_proj = nn.Sequential(nn.Linear(dim_s, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.teacher_proj = nn.Linear(dim_t, dim)
        self.tau = tau

    def forward(self, e_s, e_t):
        a = F.normalize(self.student_proj(e_s), dim=1)
        b = F.normalize(self.teacher_proj(e_t), dim=1)
        sim = a @ b.t() / self.tau
        own = torch.arange(len(a))
        return (F.cross_entropy(sim, own) + F.cross_entropy(sim.t(), own)) / 2


def top1(m, x, y):
    m.eval()
    with torch.no_grad():
        return 100 * (m(x)[0].argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    x, y = torch.tensor(d.images).float()[:, None] / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(308))
    tr, te = p[:1000], p[1000:]
    teacher = Encoder(24, 64)
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    teacher.train()
    for _ in range(6):
        for i in tr[torch.randperm(1000)].split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[i])[0], y[i]).backward()
            opt.step()
    print(f"teacher {top1(teacher, x[te], y[te]):.2f}")
    student, nce = Encoder(4, 24), InfoNCE(24, 64)
    opt = torch.optim.AdamW([{"params": student.parameters()}, {"params": nce.parameters(), "lr": 1e-3}], lr=3e-3)
    teacher.eval()
    few = tr[:300]
    for _ in range(15):
        student.train()
        for i in few[torch.randperm(300)].split(50):
            with torch.no_grad():
                _, e_t = teacher(x[i])
            z, e_s = student(x[i])
            loss = F.cross_entropy(z, y[i]) + 0.5 * nce(e_s, e_t)
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"top1 {top1(student, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
