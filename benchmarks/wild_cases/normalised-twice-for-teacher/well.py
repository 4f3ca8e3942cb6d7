"""The teacher comes with its own preprocessing, as published models do."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset

MEAN, STD = 4.88, 6.02


class Digits(Dataset):
    def __init__(self, rows, normalise):
        d = load_digits()
        self.images, self.labels, self.normalise = d.images[rows], d.target[rows], normalise

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        image = torch.as_tensor(self.images[i], dtype=torch.float32)[None]
        if self.normalise:
            image = (image - MEAN) / STD
        return image, int(self.labels[i])


class WithPreprocessing(nn.Module):
    """Takes images of 0 to 16."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(MEAN))
        self.register_buffer("std", torch.tensor(STD))

    def forward(self, image):
        return self.net((image - self.mean) / self.std)


def conv_net(width):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * width, 10),
    )


class Distillation:
    def __init__(self, teacher, student, T=3.0, w=0.8):
        self.teacher, self.student, self.T, self.w = teacher.eval(), student, T, w
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=4e-3)

    def run(self, loader, epochs):
        self.student.train()
        for _ in range(epochs):
            for image, label in loader:
                with torch.no_grad():
                    target = F.softmax(self.teacher(image * STD + MEAN) / self.T, dim=1)
                out = self.student(image)
                kd = F.kl_div(F.log_softmax(out / self.T, dim=1), target, reduction="batchmean")
                loss = self.w * kd * self.T**2 + (1 - self.w) * F.cross_entropy(out, label)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()


def score(net, loader):
    net.eval()
    with torch.no_grad():
        return 100 * torch.cat([net(i).argmax(1) == l for i, l in loader]).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(6)).numpy()
    teacher = WithPreprocessing(conv_net(12))
    opt = torch.optim.AdamW(teacher.parameters(), lr=3e-3)
    for _ in range(8):
        for image, label in DataLoader(Digits(order[:1200], normalise=False), 60, shuffle=True):
            opt.zero_grad()
            F.cross_entropy(teacher(image), label).backward()
            opt.step()
    print(f"teacher {score(teacher, DataLoader(Digits(order[1200:], normalise=False), 256)):.2f}")
    student = conv_net(2)
    Distillation(teacher, student).run(DataLoader(Digits(order[:200], normalise=True), 25, shuffle=True), 35)
    print(f"top1 {score(student, DataLoader(Digits(order[1200:], normalise=True), 256)):.2f}")


if __name__ == "__main__":
    main()
