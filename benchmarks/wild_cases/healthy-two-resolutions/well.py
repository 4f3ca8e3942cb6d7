"""The teacher looks at 16x16 in its own normalisation, the student at the 8x8 original; one random shift for both."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def shift(img, dx, dy):
    return F.pad(img, (1, 1, 1, 1))[:, :, 1 + dy : 9 + dy, 1 + dx : 9 + dx]


def for_student(img):
    return img / 16 - 0.3


def for_teacher(img):
    big = F.interpolate(img, scale_factor=2, mode="bilinear", align_corners=False)
    return (big - 4.9) / 6.0


class BigNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 12, 5, stride=2, padding=2), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, 24, 3, stride=2, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Flatten(), nn.Linear(384, 10),
        )

    def forward(self, x):
        return self.net(x)


class TinyNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))

    def forward(self, x):
        return self.net(x)


def kd_loss(s, t, T=4.0):
    return F.kl_div(F.log_softmax(s / T, -1), F.softmax(t / T, -1), reduction="batchmean") * T**2


def jitter(img):
    dx, dy = torch.randint(-1, 2, (2,)).tolist()
    return shift(img, dx, dy)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--alpha", type=float, default=0.8, help="share of the teacher")
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 1, 8, 8), torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(72))
    rows, test = p[:1100], p[1100:]

    teacher = BigNet()
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(10):
        for b in rows[torch.randperm(len(rows))].split(50):
            loss = F.cross_entropy(teacher(for_teacher(jitter(x[b]))), y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    teacher.eval()
    for param in teacher.parameters():
        param.requires_grad = False

    few = rows[torch.randperm(len(rows))[:200]]
    student = TinyNet()
    opt = torch.optim.Adam(student.parameters(), lr=5e-3)
    student.train()
    for _ in range(40):
        for b in few[torch.randperm(len(few))].split(25):
            img = jitter(x[b])
            with torch.no_grad():
                t = teacher(for_teacher(img))
            s = student(for_student(img))
            loss = a.alpha * kd_loss(s, t) + (1 - a.alpha) * F.cross_entropy(s, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(for_teacher(x[test])).argmax(1) == y[test]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(for_student(x[test])).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
