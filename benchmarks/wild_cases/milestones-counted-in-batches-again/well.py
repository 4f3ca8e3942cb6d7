"""A small trainer with a recipe: SGD, 30 epochs, learning rate divided by 10 after epochs 18 and 25."""
import argparse
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


@dataclass
class Recipe:
    epochs: int = 30
    lr: float = 0.05
    milestones: tuple = (18, 25)
    batch_size: int = 32
    T: float = 4.0
    alpha: float = 0.8


class ResNetlet(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(width), nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.fc = nn.Linear(width * 4, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.relu(x + self.bn3(self.conv3(F.relu(self.bn2(self.conv2(x))))))
        return self.fc(F.max_pool2d(x, 2).flatten(1))


class Trainer:
    def __init__(self, student, recipe, teacher=None):
        self.student, self.recipe, self.teacher = student, recipe, teacher
        if teacher is not None:
            teacher.eval()
            teacher.requires_grad_(False)
        self.optimizer = torch.optim.SGD(student.parameters(), lr=recipe.lr, momentum=0.9, weight_decay=5e-4)
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, list(recipe.milestones), gamma=0.1)

    def compute_loss(self, x, y):
        logits = self.student(x)
        ce = F.cross_entropy(logits, y)
        if self.teacher is None:
            return ce
        T, alpha = self.recipe.T, self.recipe.alpha
        with torch.no_grad():
            soft_targets = torch.softmax(self.teacher(x) / T, dim=1)
        kd = F.kl_div(torch.log_softmax(logits / T, dim=1), soft_targets, reduction="batchmean")
        return alpha * T**2 * kd + (1 - alpha) * ce

    def update(self, loss):
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def fit(self, loader):
        for _ in range(self.recipe.epochs):
            self.student.train()
            for x, y in loader:
                self.update(self.compute_loss(x, y))
            self.scheduler.step()
        return self.student.eval()


@torch.no_grad()
def top1(net, x, y):
    net.eval()
    return 100 * (net(x).argmax(1) == y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--labels-alone", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 0.6, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(47))
    rows, test = p[:1100], p[1100:]
    few = rows[torch.randperm(len(rows))[:192]]

    teacher = ResNetlet(20)
    optimizer = torch.optim.SGD(teacher.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    teacher.train()
    for _ in range(6):
        for b in rows[torch.randperm(len(rows))].split(50):
            optimizer.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            optimizer.step()
    print(f"teacher {top1(teacher, x[test], y[test]):.2f}")

    recipe = Recipe()
    loader = DataLoader(TensorDataset(x[few], y[few]), batch_size=recipe.batch_size, shuffle=True)
    student = Trainer(ResNetlet(4), recipe, None if args.labels_alone else teacher).fit(loader)
    print(f"top1 {top1(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
