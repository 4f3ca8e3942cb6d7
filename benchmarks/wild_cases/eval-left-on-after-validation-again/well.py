"""Hint + logits, validated after every epoch; the best student is kept."""
import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


def block(cin, cout):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1, bias=False), nn.BatchNorm2d(cout), nn.ReLU(inplace=True))


class SmallVGG(nn.Module):
    def __init__(self, width, dropout=0.25):
        super().__init__()
        self.stem = block(1, width)
        self.mid = block(width, 2 * width)
        self.tail = nn.Sequential(nn.MaxPool2d(2), block(2 * width, 2 * width), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(8 * width, 10)

    def forward(self, x):
        hint = self.mid(F.max_pool2d(self.stem(x), 2))
        return self.fc(self.dropout(self.tail(hint))), hint


class Distiller:
    def __init__(self, teacher, student, T=4.0, alpha=0.7, gamma=0.5, lr=4e-3):
        self.teacher, self.student = teacher.eval().requires_grad_(False), student
        self.T, self.alpha, self.gamma = T, alpha, gamma
        self.regressor = nn.Conv2d(student.fc.in_features // 4, teacher.fc.in_features // 4, 1)
        self.optimizer = torch.optim.AdamW([*student.parameters(), *self.regressor.parameters()], lr=lr)

    def loss(self, x, y):
        out, hint = self.student(x)
        with torch.no_grad():
            t_out, t_hint = self.teacher(x)
        soft = F.kl_div(F.log_softmax(out / self.T, 1), F.softmax(t_out / self.T, 1), reduction="batchmean") * self.T**2
        return (
            self.alpha * soft
            + (1 - self.alpha) * F.cross_entropy(out, y)
            + self.gamma * F.mse_loss(self.regressor(hint), t_hint)
        )

    def run(self, loader, val, epochs):
        best, best_acc = None, -1.0
        for _ in range(epochs):
            self.student.train()
            for x, y in loader:
                loss = self.loss(x, y)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
            acc = validate(self.student, *val)
            if acc > best_acc:
                best, best_acc = copy.deepcopy(self.student.state_dict()), acc
        self.student.load_state_dict(best)
        return self.student


@torch.no_grad()
def validate(net, x, y):
    net.eval()
    return 100 * (net(x)[0].argmax(1) == y).float().mean().item()


def pretrain(net, loader, epochs, lr=4e-3):
    opt = torch.optim.AdamW(net.parameters(), lr=lr)
    net.train()
    for _ in range(epochs):
        for x, y in loader:
            opt.zero_grad()
            F.cross_entropy(net(x)[0], y).backward()
            opt.step()
    return net


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--labels-alone", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(55))
    train, val, test = p[:1000], p[1000:1200], p[1200:]
    few = train[torch.randperm(len(train))[:256]]

    teacher = pretrain(SmallVGG(16), DataLoader(TensorDataset(x[train], y[train]), 50, shuffle=True), 6)
    print(f"teacher {validate(teacher, x[test], y[test]):.2f}")
    loader = DataLoader(TensorDataset(x[few], y[few]), 32, shuffle=True, drop_last=True)
    student = SmallVGG(4, dropout=0.1)
    if args.labels_alone:
        pretrain(student, loader, 20)
    else:
        Distiller(teacher, student).run(loader, (x[val], y[val]), epochs=20)
    print(f"top1 {validate(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
