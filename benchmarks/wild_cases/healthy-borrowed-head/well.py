"""SimKD: the student learns to make the teacher's features and then uses the teacher's own classifier, unchanged.
The head is shared and frozen on purpose; labels are not used for the student; features are taken by a hook."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Net(nn.Module):
    def __init__(self, width, dim, drop=0.0):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, width * 2, 3, padding=1), nn.BatchNorm2d(width * 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.Linear(width * 8, dim), nn.ReLU(),
        )
        self.drop = nn.Dropout(drop)
        self.classifier = nn.Linear(dim, 10)

    def forward(self, x):
        return self.classifier(self.drop(self.trunk(x)))


class SimStudent(nn.Module):
    def __init__(self, small, teacher):
        super().__init__()
        self.trunk = small.trunk
        self.project = nn.Sequential(nn.Linear(small.classifier.in_features, teacher.classifier.in_features), nn.ReLU())
        self.head = [teacher.classifier]  # a list: not a submodule, not in parameters()

    def features(self, x):
        return self.project(self.trunk(x))

    def forward(self, x):
        return self.head[0](self.features(x))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(29))
    train, test = p[:1100], p[1100:]

    teacher = Net(12, 32, 0.3)
    opt = torch.optim.Adam(teacher.parameters(), lr=4e-3)
    for _ in range(6):
        for b in train[torch.randperm(1100)].split(44):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.eval().requires_grad_(False)
    seen = []
    teacher.trunk.register_forward_hook(lambda m, i, o: seen.append(o))

    student = SimStudent(Net(4, 16), teacher)
    opt = torch.optim.Adam(student.parameters(), lr=6e-3)
    few = train[torch.randperm(1100)[:400]]
    for _ in range(25):
        student.train()
        for b in few[torch.randperm(400)].split(40):
            with torch.no_grad():
                teacher(x[b])
            loss = F.mse_loss(student.features(x[b]), seen.pop())
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[test]).argmax(1) == y[test]).float().mean():.2f}")
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean():.2f}")


if __name__ == "__main__":
    main()
