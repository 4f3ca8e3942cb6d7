"""The teacher was trained on a folder of classes (one directory for each name), the student on the numbers."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


class FolderOfDigits:
    """As an image folder reads it: classes are the sorted names of its directories."""

    def __init__(self, images, numbers):
        self.classes = sorted(NAMES)
        self.class_to_idx = {c: i for i, c in enumerate(self.classes)}
        self.samples = [(x, self.class_to_idx[NAMES[n]]) for x, n in zip(images, numbers.tolist())]

    def tensors(self):
        return torch.stack([s[0] for s in self.samples]), torch.tensor([s[1] for s in self.samples])


class Net(nn.Module):
    def __init__(self, h, classes):
        super().__init__()
        self.classes = classes
        self.body = nn.Sequential(nn.Linear(64, h), nn.ELU(), nn.Linear(h, h), nn.ELU())
        self.head = nn.Linear(h, len(classes))

    def forward(self, x):
        return self.head(self.body(x))


def fit(net, x, y, epochs, step):
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=max(1, epochs // 3), gamma=0.3)
    for _ in range(epochs):
        net.train()
        for i in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            step(net, x[i], y[i]).backward()
            optimizer.step()
        scheduler.step()
    return net.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--tau", type=float, default=2.0)
    ap.add_argument("--gamma", type=float, default=0.5, help="share of the teacher")
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(18))
    x, y = x[p], y[p]

    folder = FolderOfDigits(x[:1000], y[:1000])
    xf, yf = folder.tensors()
    teacher = fit(Net(96, folder.classes), xf, yf, 12, lambda net, a, b: F.cross_entropy(net(a), b))
    teacher.requires_grad_(False)
    order = torch.tensor([folder.class_to_idx[n] for n in NAMES])
    print(f"teacher {100 * (teacher(x[1000:])[:, order].argmax(1) == y[1000:]).float().mean().item():.2f}")

    def distill_step(net, a, b):
        s = net(a)
        t = teacher(a)[:, order]
        soft = F.kl_div(
            F.log_softmax(s / args.tau, 1), F.softmax(t / args.tau, 1), reduction="batchmean"
        ) * args.tau ** 2
        return args.gamma * soft + (1 - args.gamma) * F.cross_entropy(s, b)

    student = fit(Net(12, NAMES), x[:320], y[:320], 30, distill_step)
    with torch.no_grad():
        print(f"top1 {100 * (student(x[1000:]).argmax(1) == y[1000:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
