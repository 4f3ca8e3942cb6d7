import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


def loaders(seed, batch_size=64):
    d = load_digits()
    x = torch.tensor(d.images, dtype=torch.float).unsqueeze(1).div(16)
    y = torch.tensor(d.target, dtype=torch.long)
    idx = torch.randperm(len(y), generator=torch.Generator().manual_seed(100 + seed))
    tr, va, te = idx[:1200], idx[1200:1450], idx[1450:]
    make = lambda i, shuffle: DataLoader(TensorDataset(x[i], y[i]), batch_size=batch_size, shuffle=shuffle)
    return make(tr, True), make(va, False), make(te, False)


class Net(nn.Module):
    def __init__(self, width, drop):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.drop = nn.Dropout(drop)
        self.fc = nn.Linear(2 * width * 16, 10)

    def forward(self, x):
        return self.fc(self.drop(self.features(x).flatten(1)))


def validate(model, loader):
    model.eval()
    correct = n = 0
    with torch.no_grad():
        for x, y in loader:
            correct += (model(x).argmax(dim=1) == y).sum().item()
            n += len(y)
    return 100.0 * correct / n


class Trainer:
    def __init__(self, student, teacher=None, lr=0.05, T=4, alpha=0.5):
        self.student, self.teacher = student, teacher
        self.T, self.alpha = T, alpha
        self.optimizer = torch.optim.SGD(student.parameters(), lr=lr, momentum=0.9, nesterov=True)
        if teacher is not None:
            teacher.eval()
            for p in teacher.parameters():
                p.requires_grad_(False)

    def loss(self, s, t, y):
        ce = F.cross_entropy(s, y)
        if t is None:
            return ce
        kl = F.kl_div(F.log_softmax(s / self.T, 1), F.softmax(t / self.T, 1), reduction="batchmean")
        return self.alpha * self.T * self.T * kl + (1 - self.alpha) * ce

    def train_epoch(self, loader):
        for x, y in loader:
            t = self.teacher(x) if self.teacher is not None else None
            loss = self.loss(self.student(x), t, y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def fit(self, train, val, epochs):
        best, state = -1.0, None
        self.student.train()
        for epoch in range(epochs):
            self.train_epoch(train)
            acc = validate(self.student, val)
            print(f"[{epoch + 1}/{epochs}] val {acc:.2f}")
            if acc > best:
                best, state = acc, copy.deepcopy(self.student.state_dict())
        self.student.load_state_dict(state)
        return self.student


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    train, val, test = loaders(args.seed)
    teacher = Trainer(Net(12, 0.2)).fit(train, val, 4)
    print("teacher test %.2f" % validate(teacher, test))
    student = Trainer(Net(2, 0.1), teacher).fit(train, val, 6)
    print("top1 %.2f" % validate(student, test))


if __name__ == "__main__":
    main()
