"""Two old models of the group are the teachers (an average of their logits); the student is new and has its own recipe."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset


def scale(img):
    """Pixels to 0..1."""
    return img / 16


def invert_and_standardise(img):
    """The old models' recipe: dark ink on white paper, mean 0, variance 1."""
    return ((16 - img) - 11.1) / 6.0


class Digits(Dataset):
    def __init__(self, images, labels, transform, teacher_transform=None):
        self.images, self.labels = images, labels
        self.transform, self.teacher_transform = transform, teacher_transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        img = self.images[i]
        if self.teacher_transform is None:
            return self.transform(img), self.labels[i]
        return self.transform(img), self.teacher_transform(img), self.labels[i]


class ConvNet(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3)
        self.fc1 = nn.Linear(9 * width, 4 * width)
        self.fc2 = nn.Linear(4 * width, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Ensemble(nn.Module):
    def __init__(self, members):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x):
        return torch.stack([m(x) for m in self.members]).mean(0)


def train_plain(net, data, epochs, lr):
    opt = torch.optim.Adam(net.parameters(), lr=lr)
    net.train()
    for _ in range(epochs):
        for x, y in DataLoader(data, 40, shuffle=True):
            opt.zero_grad()
            F.cross_entropy(net(x), y).backward()
            opt.step()
    return net.eval()


def kd_step(student, teacher, batch, opt, T=4.0, alpha=0.8):
    x, x_teacher, y = batch
    with torch.no_grad():
        wanted = F.softmax(teacher(x_teacher) / T, dim=1)
    out = student(x)
    kd = F.kl_div(F.log_softmax(out / T, dim=1), wanted, reduction="batchmean") * (T * T)
    loss = alpha * kd + (1 - alpha) * F.cross_entropy(out, y)
    opt.zero_grad()
    loss.backward()
    opt.step()


@torch.no_grad()
def score(net, data):
    net.eval()
    return 100 * torch.cat([(net(x).argmax(1) == y).float() for x, y in DataLoader(data, 256)]).mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--labels-alone", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(19))
    rows, test = p[:1100], p[1100:]
    old_recipe = Digits(x[rows], y[rows], invert_and_standardise)
    teacher = Ensemble([train_plain(ConvNet(16), old_recipe, 8, 2e-3) for _ in range(2)])
    print(f"teacher {score(teacher, Digits(x[test], y[test], invert_and_standardise)):.2f}")

    few = rows[torch.randperm(len(rows))[:200]]
    student = ConvNet(4)
    if args.labels_alone:
        train_plain(student, Digits(x[few], y[few], scale), 40, 5e-3)
    else:
        loader = DataLoader(Digits(x[few], y[few], scale, invert_and_standardise), 25, shuffle=True)
        teacher.eval().requires_grad_(False)
        opt = torch.optim.Adam(student.parameters(), lr=5e-3)
        for _ in range(40):
            student.train()
            for batch in loader:
                kd_step(student, teacher, batch, opt)
    print(f"top1 {score(student, Digits(x[test], y[test], scale)):.2f}")


if __name__ == "__main__":
    main()
