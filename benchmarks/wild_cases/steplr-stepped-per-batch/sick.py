"""Teacher -> student with SGD and StepLR."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset


class RowGRU(nn.Module):
    def __init__(self, hidden_size):
        super().__init__()
        self.gru = nn.GRU(input_size=8, hidden_size=hidden_size, batch_first=True)
        self.fc = nn.Linear(hidden_size, 10)

    def forward(self, x):
        _, last = self.gru(x)
        return self.fc(last[-1])


class BigMLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 10))

    def forward(self, x):
        return self.layers(x)


def distillation(y, labels, teacher_scores, T, alpha):
    soft = F.kl_div(F.log_softmax(y / T, dim=1), F.softmax(teacher_scores / T, dim=1), reduction="batchmean")
    return soft * (T * T * alpha) + F.cross_entropy(y, labels) * (1. - alpha)


def train_big(args, model, loader):
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(15):
        for data, target in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(data), target).backward()
            optimizer.step()


def train_small(args, model, teacher, loader):
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    scheduler = StepLR(optimizer, step_size=args.lr_step, gamma=0.1)
    teacher.eval()
    for epoch in range(args.epochs):
        model.train()
        for batch_idx, (data, target) in enumerate(loader):
            optimizer.zero_grad()
            output = model(data)
            with torch.no_grad():
                teacher_output = teacher(data)
            loss = distillation(output, target, teacher_output, T=3.0, alpha=0.7)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            scheduler.step()


def test(model, loader):
    model.eval()
    correct = 0
    with torch.no_grad():
        for data, target in loader:
            correct += model(data).argmax(dim=1).eq(target).sum().item()
    return 100. * correct / len(loader.dataset)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--lr-step", type=int, default=14, help="epochs before the learning rate falls")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    x, y = torch.tensor(d.images, dtype=torch.float32) / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(6))
    train_loader = DataLoader(TensorDataset(x[p[:1200]], y[p[:1200]]), batch_size=40, shuffle=True)
    test_loader = DataLoader(TensorDataset(x[p[1200:]], y[p[1200:]]), batch_size=200)
    teacher = BigMLP()
    train_big(args, teacher, train_loader)
    print(f"teacher {test(teacher, test_loader):.2f}")
    student = RowGRU(24)
    train_small(args, student, teacher, train_loader)
    print(f"top1 {test(student, test_loader):.2f}")


if __name__ == "__main__":
    main()
