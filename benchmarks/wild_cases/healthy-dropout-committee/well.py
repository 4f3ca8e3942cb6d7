"""The teacher's dropout stays on, on purpose: its mean over forty passes, taken once, is what a small net learns."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Teacher(nn.Module):
    def __init__(self, width=192, p=0.25):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(p),
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(p), nn.Linear(width, 10))

    def forward(self, x):
        return self.net(x)

    @torch.no_grad()
    def predictive(self, x, passes=40):
        """The mean of the probabilities over passes with dropout; batch norm keeps to its own averages."""
        self.eval()
        for m in self.modules():
            if isinstance(m, nn.Dropout):
                m.train()
        mean = torch.stack([self(x).softmax(1) for _ in range(passes)]).mean(0)
        self.eval()
        return mean


def train_teacher(x, y):
    teacher = Teacher()
    opt = torch.optim.AdamW(teacher.parameters(), lr=2e-3)
    teacher.train()
    for _ in range(15):
        for b in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    return teacher.eval().requires_grad_(False)


def train_student(student, x, y, probabilities, epochs=60, mix=0.8):
    """Probabilities as targets: cross_entropy takes them as they are."""
    opt = torch.optim.AdamW(student.parameters(), lr=5e-3)
    student.train()
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(40):
            z = student(x[b])
            loss = mix * F.cross_entropy(z, probabilities[b]) + (1 - mix) * F.cross_entropy(z, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    return student.eval()


def data(seed):
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(815))
    few = p[:1000][torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[:200]]
    return (x[p[:1000]], y[p[:1000]]), (x[few], y[few]), (x[p[1000:]], y[p[1000:]])


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    train, few, (xt, yt) = data(args.seed)
    teacher = train_teacher(*train)
    print(f"teacher {100 * (teacher(xt).argmax(1) == yt).float().mean().item():.2f}, "
          f"committee {100 * (teacher.predictive(xt).argmax(1) == yt).float().mean().item():.2f}")
    student = nn.Sequential(nn.Linear(64, 28), nn.ReLU(), nn.Linear(28, 10))
    train_student(student, *few, teacher.predictive(few[0]))
    with torch.no_grad():
        print(f"top1 {100 * (student(xt).argmax(1) == yt).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
