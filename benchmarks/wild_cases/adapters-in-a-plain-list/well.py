"""FitNets-style hints at two depths; 1x1 convolutions bring the student's maps to the teacher's width."""
import argparse

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Stages(nn.Module):
    def __init__(self, widths):
        super().__init__()
        blocks, cin = [], 1
        for w in widths:
            blocks.append(nn.Sequential(nn.Conv2d(cin, w, 3, padding=1), nn.BatchNorm2d(w), nn.ReLU(), nn.MaxPool2d(2)))
            cin = w
        self.blocks = nn.ModuleList(blocks)
        self.fc = nn.Linear(cin * 4, 10)

    def forward(self, x, return_maps=False):
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        logits = self.fc(x.flatten(1))
        return (logits, maps) if return_maps else logits


class HintedStudent(nn.Module):
    def __init__(self, widths, teacher_widths):
        super().__init__()
        self.net = Stages(widths)
        self.adapters = nn.ModuleList([nn.Conv2d(s, t, 1) for s, t in zip(widths, teacher_widths)])

    def forward(self, x):
        logits, maps = self.net(x, return_maps=True)
        return logits, [adapt(m) for adapt, m in zip(self.adapters, maps)]


def hint_loss(student_maps, teacher_maps):
    return sum(F.mse_loss(s, t) for s, t in zip(student_maps, teacher_maps)) / len(teacher_maps)


def pretrain(net, loader, epochs):
    opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    net.train()
    for _ in range(epochs):
        for x, y in loader:
            loss = F.cross_entropy(net(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
    net.eval()
    for p in net.parameters():
        p.requires_grad_(False)
    return net


def train_student(model, teacher, loader, epochs, hint_weight):
    opt = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    for _ in range(epochs):
        model.train()
        for x, y in loader:
            with torch.no_grad():
                _, wanted = teacher(x, return_maps=True)
            logits, hints = model(x)
            loss = F.cross_entropy(logits, y) + hint_weight * hint_loss(hints, wanted)
            opt.zero_grad()
            loss.backward()
            opt.step()


@torch.no_grad()
def top1(net, x, y):
    net.eval()
    return (net(x).argmax(1) == y).float().mean().item() * 100


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hint-weight", type=float, default=1.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 1, 8, 8) / 8 - 1
    xa, xb, ya, yb = train_test_split(x, y, train_size=1000, random_state=0)
    xa, xb = torch.tensor(xa).float(), torch.tensor(xb).float()
    ya, yb = torch.tensor(ya), torch.tensor(yb)
    loader = DataLoader(TensorDataset(xa, ya), batch_size=50, shuffle=True)

    teacher = pretrain(Stages([16, 32]), loader, epochs=8)
    print(f"teacher {top1(teacher, xb, yb):.2f}")
    model = HintedStudent([4, 8], [16, 32])
    train_student(model, teacher, loader, epochs=12, hint_weight=args.hint_weight)
    print(f"top1 {top1(model.net, xb, yb):.2f}")


if __name__ == "__main__":
    main()
