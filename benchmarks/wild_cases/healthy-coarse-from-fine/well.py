"""The teacher knows ten digits, the student has to say only which of four groups a digit is in.
The teacher's probabilities are summed within each group (in log space) before they are compared; heads differ in size."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

GROUPS = [[0, 6, 8], [1, 4, 7], [2, 3], [5, 9]]


def group_of(fine):
    lookup = torch.empty(10, dtype=torch.long)
    for g, members in enumerate(GROUPS):
        lookup[members] = g
    return lookup[fine]


def grouped(logits):
    """[B, 10] -> [B, 4]; softmax of the result is the sum of the members' probabilities"""
    return torch.stack([logits[:, members].logsumexp(1) for members in GROUPS], 1)


class GroupDistillation(nn.Module):
    def __init__(self, teacher, T=2.0, weight=0.7):
        super().__init__()
        self._teacher = (teacher,)  # hidden from .train(), .parameters() and state_dict()
        self.T, self.weight = T, weight

    @torch.no_grad()
    def target(self, x):
        # softened after the grouping: the distribution over groups is what is taught
        return F.softmax(grouped(self._teacher[0](x)) / self.T, 1)

    def forward(self, logits, x, group):
        # cross-entropy with soft targets: not 0 where both agree, its gradient is the divergence's
        soft = F.cross_entropy(logits / self.T, self.target(x))
        return self.weight * self.T**2 * soft + (1 - self.weight) * F.cross_entropy(logits, group)


def net(width, outputs, drop=0.0):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(),
        nn.Dropout(drop), nn.Linear(16 * width, outputs),
    )


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--weight", type=float, default=0.7)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(18))
    train, test = p[:1100], p[1100:]

    teacher = net(16, 10, 0.3)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(6):
        for b in train[torch.randperm(1100)].split(44):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.eval()

    group = group_of(y)
    criterion = GroupDistillation(teacher, weight=a.weight)
    student = net(3, len(GROUPS))
    few = train[torch.randperm(1100)[:240]]
    opt = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    sched = torch.optim.lr_scheduler.PolynomialLR(opt, total_iters=30, power=1.0)
    for _ in range(30):
        student.train()
        for b in few[torch.randperm(240)].split(24):
            loss = criterion(student(x[b]), x[b], group[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
        sched.step()
    student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (grouped(teacher(x[test])).argmax(1) == group[test]).float().mean():.2f}")
        print(f"top1 {100 * (student(x[test]).argmax(1) == group[test]).float().mean():.2f}")


if __name__ == "__main__":
    main()
