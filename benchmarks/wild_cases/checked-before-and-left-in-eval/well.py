"""Deep thin student with batch norm; accuracy is logged on the way."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


class Deep(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        layers, last = [], 64
        for _ in range(depth):
            layers += [nn.Linear(last, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
            last = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        return self.head(self.body(x))


class Trainer:
    def __init__(self, student, teacher, train_loader, val_loader, epochs, lr, T):
        self.student, self.teacher = student, teacher
        self.train_loader, self.val_loader = train_loader, val_loader
        self.epochs, self.T = epochs, T
        self.optimizer = torch.optim.SGD(student.parameters(), lr=lr, momentum=0.9)

    def validate(self):
        self.student.eval()
        good = total = 0
        with torch.no_grad():
            for x, y in self.val_loader:
                good += (self.student(x).argmax(1) == y).sum().item()
                total += len(y)
        return 100 * good / total

    def compute_loss(self, x):
        with torch.no_grad():
            q = torch.softmax(self.teacher(x) / self.T, dim=1)
        logp = torch.log_softmax(self.student(x) / self.T, dim=1)
        return -(q * logp).sum(1).mean() * self.T**2

    def train(self):
        print(f"before: {self.validate():.2f}")
        for epoch in range(self.epochs):
            self.student.train()
            for x, _ in self.train_loader:
                loss = self.compute_loss(x)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
            if epoch % 4 == 3:
                print(f"epoch {epoch + 1}: {self.validate():.2f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x))
    train, test = TensorDataset(x[p[:1100]], y[p[:1100]]), TensorDataset(x[p[1100:]], y[p[1100:]])
    train_loader = DataLoader(train, batch_size=44, shuffle=True)
    val_loader = DataLoader(test, batch_size=200)

    teacher = Deep(128, 2)
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    teacher.train()
    for _ in range(6):
        for xb, yb in train_loader:
            opt.zero_grad()
            F.cross_entropy(teacher(xb), yb).backward()
            opt.step()
    teacher.eval().requires_grad_(False)

    student = Deep(12, 7)
    trainer = Trainer(student, teacher, train_loader, val_loader, epochs=10, lr=0.02, T=2.0)
    trainer.train()
    print(f"top1 {trainer.validate():.2f}")


if __name__ == "__main__":
    main()
