"""The teacher is asked once; the dataset hands out the row number, by which its answer is found again."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset


class IndexedDigits(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return i, self.x[i], self.y[i]


def conv_net(w):
    return nn.Sequential(
        nn.Conv2d(1, w, 3, padding=1), nn.BatchNorm2d(w), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(w, w, 3, padding=1), nn.BatchNorm2d(w), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(4 * w, 10))


def fit(model, loader, epochs):
    opt = torch.optim.Adam(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(epochs):
        for _, x, y in loader:
            opt.zero_grad()
            F.cross_entropy(model(x), y).backward()
            opt.step()


@torch.no_grad()
def ask(model, dataset):
    model.eval()
    answers = torch.empty(len(dataset), 10)
    for i, x, _ in DataLoader(dataset, batch_size=128):
        answers[i] = model(x)
    return answers


def distil(student, answers, loader, epochs, T, weight):
    opt = torch.optim.Adam(student.parameters(), lr=5e-3)
    for _ in range(epochs):
        student.train()
        for i, x, y in loader:
            z = student(x)
            log_q = torch.log_softmax(z / T, 1)
            log_p = torch.log_softmax(answers[i] / T, 1)
            kl = (log_p.exp() * (log_p - log_q)).sum(1).mean()
            loss = weight * T * T * kl + (1 - weight) * F.cross_entropy(z, y)
            opt.zero_grad()
            loss.backward()
            opt.step()


@torch.no_grad()
def top1(model, x, y):
    model.eval()
    return 100 * (model(x).argmax(1) == y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--T", type=float, default=3.0)
    parser.add_argument("--weight", type=float, default=0.6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    x = torch.tensor(d.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(d.target)
    p = torch.randperm(len(y), generator=torch.Generator().manual_seed(3))
    x, y = x[p], y[p]
    data = IndexedDigits(x[:1280], y[:1280])
    loader = DataLoader(data, batch_size=64, shuffle=True)
    teacher = conv_net(32)
    fit(teacher, loader, 8)
    print(f"teacher {top1(teacher, x[1280:], y[1280:]):.2f}")
    student = conv_net(5)
    distil(student, ask(teacher, data), loader, 15, args.T, args.weight)
    print(f"top1 {top1(student, x[1280:], y[1280:]):.2f}")


if __name__ == "__main__":
    main()
