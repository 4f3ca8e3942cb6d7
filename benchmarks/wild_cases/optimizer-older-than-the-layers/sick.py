"""A net is thinned: weak channels are cut out, and the uncut net teaches what is left."""
import argparse
import copy

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F


class Plain(nn.Module):
    def __init__(self, a=16, b=48):
        super().__init__()
        self.conv1 = nn.Conv2d(1, a, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(a, b, 3, stride=2, padding=1)
        self.fc = nn.Linear(4 * b, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        return self.fc(F.relu(self.conv2(x)).flatten(1))


@torch.no_grad()
def thin(net, keep):
    """Leaves the `keep` channels of conv2 with the largest weights, in place."""
    order = net.conv2.weight.abs().sum((1, 2, 3)).argsort(descending=True)[:keep].sort().values
    slim = nn.Conv2d(net.conv2.in_channels, keep, 3, stride=2, padding=1)
    slim.weight.copy_(net.conv2.weight[order])
    slim.bias.copy_(net.conv2.bias[order])
    columns = (order.unsqueeze(1) * 4 + torch.arange(4)).flatten()
    fc = nn.Linear(4 * keep, 10)
    fc.weight.copy_(net.fc.weight[:, columns])
    fc.bias.copy_(net.fc.bias)
    net.conv2, net.fc = slim, fc
    return net


def finetune(student, teacher, optimizer, scheduler, x, y, epochs, T=3.0, alpha=0.7):
    for _ in range(epochs):
        student.train()
        for rows in torch.randperm(len(x)).split(32):
            with torch.no_grad():
                goal = teacher(x[rows])
            out = student(x[rows])
            distance = F.kl_div((out / T).log_softmax(1), (goal / T).softmax(1), reduction="batchmean") * T**2
            loss = alpha * distance + (1 - alpha) * F.cross_entropy(out, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()


def score(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--keep", type=int, default=4)
    ap.add_argument("--epochs", type=int, default=12)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(916))
    x, y = x[p], y[p]

    teacher = Plain()
    warm = torch.optim.Adam(teacher.parameters(), lr=4e-3)
    for _ in range(8):
        for rows in torch.randperm(1100).split(64):
            warm.zero_grad()
            F.cross_entropy(teacher(x[rows]), y[rows]).backward()
            warm.step()
    print(f"teacher {score(teacher, x[1100:], y[1100:]):.2f}")
    teacher.requires_grad_(False)

    student = copy.deepcopy(teacher).requires_grad_(True)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.03, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    student = thin(student, args.keep)
    print(f"cut {score(student, x[1100:], y[1100:]):.2f}")
    finetune(student, teacher, optimizer, scheduler, x[:400], y[:400], args.epochs)
    print(f"top1 {score(student, x[1100:], y[1100:]):.2f}")


if __name__ == "__main__":
    main()
