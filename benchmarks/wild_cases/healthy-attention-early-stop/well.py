"""Attention transfer beside soft answers; stops when the validation loss no longer falls, and goes back to the best."""
import argparse
import copy

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class TwoStage(nn.Module):
    def __init__(self, ch):
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(1, ch, 3, padding=1), nn.BatchNorm2d(ch), nn.ReLU())
        self.stage2 = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(ch, 2 * ch, 3, padding=1), nn.BatchNorm2d(2 * ch), nn.ReLU())
        self.fc = nn.Linear(8 * ch, 10)

    def forward(self, x):
        g1 = self.stage1(x)
        g2 = self.stage2(g1)
        return self.fc(F.avg_pool2d(g2, 2).flatten(1)), (g1, g2)


def at(g):
    return F.normalize(g.pow(2).mean(1).flatten(1), dim=1)


def at_loss(g_s, g_t):
    return (at(g_s) - at(g_t)).pow(2).sum(1).mean()


class EarlyStopping:
    def __init__(self, patience=4):
        self.patience, self.best, self.bad, self.state = patience, float("inf"), 0, None

    def step(self, value, model):
        if value < self.best:
            self.best, self.bad, self.state = value, 0, copy.deepcopy(model.state_dict())
        else:
            self.bad += 1
        return self.bad >= self.patience


@torch.no_grad()
def evaluate(model, loader):
    model.eval()
    loss = hits = n = 0
    for x, y in loader:
        z, _ = model(x)
        loss += F.cross_entropy(z, y, reduction="sum").item()
        hits += (z.argmax(1) == y).sum().item()
        n += len(y)
    return loss / n, 100 * hits / n


def train_teacher(model, loader, epochs=6):
    opt = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        model.train()
        for x, y in loader:
            opt.zero_grad()
            F.cross_entropy(model(x)[0], y).backward()
            opt.step()
    return model.eval()


def train_student(student, teacher, loader, val_loader, T=4.0, alpha=0.5, beta=1.0, max_epochs=15):
    opt = torch.optim.Adam(student.parameters(), lr=4e-3)
    stopper = EarlyStopping()
    for _ in range(max_epochs):
        student.train()
        for x, y in loader:
            with torch.no_grad():
                y_t, maps_t = teacher(x)
            y_s, maps_s = student(x)
            soft = F.kl_div(F.log_softmax(y_s / T, 1), F.softmax(y_t / T, 1), reduction="batchmean") * T**2
            hard = F.cross_entropy(y_s, y)
            attention = sum(at_loss(a, b) for a, b in zip(maps_s, maps_t))
            loss = alpha * soft + (1 - alpha) * hard + beta * attention
            opt.zero_grad()
            loss.backward()
            opt.step()
        if stopper.step(evaluate(student, val_loader)[0], student):
            break
    student.load_state_dict(stopper.state)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    x, y = torch.tensor(d.images / 16, dtype=torch.float32).unsqueeze(1), torch.tensor(d.target)
    fit, test = train_test_split(torch.arange(len(x)), test_size=400, random_state=21)
    fit, val = train_test_split(fit, test_size=200, random_state=21)
    loaders = [DataLoader(TensorDataset(x[r], y[r]), batch_size=64, shuffle=r is fit) for r in (fit, val, test)]
    teacher = train_teacher(TwoStage(16), loaders[0])
    print(f"teacher {evaluate(teacher, loaders[2])[1]:.2f}")
    student = TwoStage(4)
    train_student(student, teacher, loaders[0], loaders[1])
    print(f"top1 {evaluate(student, loaders[2])[1]:.2f}")


if __name__ == "__main__":
    main()
