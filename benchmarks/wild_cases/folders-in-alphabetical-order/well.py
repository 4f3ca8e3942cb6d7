"""The teacher was trained elsewhere, from a tree of folders named by class; the student's data come with numbers."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


class FolderTree:
    """What an image folder does: the classes are the names of the folders, sorted."""

    def __init__(self, images, names):
        self.classes = sorted(set(names))
        self.class_to_idx = {name: i for i, name in enumerate(self.classes)}
        self.images = images
        self.targets = torch.tensor([self.class_to_idx[name] for name in names])


class Teacher(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.classes = classes
        self.trunk = nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Dropout(0.2), nn.Linear(200, 100), nn.ReLU())
        self.fc = nn.Linear(100, len(classes))

    def forward(self, x):
        return self.fc(self.trunk(x))

    @classmethod
    def from_tree(cls, tree, epochs=14):
        net = cls(tree.classes)
        opt = torch.optim.Adam(net.parameters(), lr=2e-3)
        for _ in range(epochs):
            for b in torch.randperm(len(tree.images)).split(50):
                opt.zero_grad()
                F.cross_entropy(net(tree.images[b]), tree.targets[b]).backward()
                opt.step()
        return net.eval().requires_grad_(False)


def student_net():
    return nn.Sequential(nn.Linear(64, 14), nn.ReLU(), nn.Linear(14, len(NAMES)))


def ask(teacher, x):
    with torch.no_grad():
        return teacher(x)[:, [teacher.classes.index(name) for name in NAMES]]


def distil(student, teacher, x, y, kd_ratio, T=3.0, epochs=60, lr=4e-3):
    opt = torch.optim.Adam(student.parameters(), lr=lr)
    student.train()
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(32):
            logits, wanted = student(x[b]), ask(teacher, x[b])
            loss_ce = F.cross_entropy(logits, y[b])
            loss_kd = -(F.softmax(wanted / T, 1) * F.log_softmax(logits / T, 1)).sum(1).mean() * T * T
            opt.zero_grad()
            ((1 - kd_ratio) * loss_ce + kd_ratio * loss_kd).backward()
            opt.step()
    return student.eval()


def load(seed):
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(321))
    few = p[:1100][torch.randperm(1100, generator=torch.Generator().manual_seed(seed))[:160]]
    tree = FolderTree(x[p[:1100]], [NAMES[i] for i in y[p[:1100]].tolist()])
    return tree, (x[few], y[few]), (x[p[1100:]], y[p[1100:]])


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--kd-ratio", type=float, default=0.7)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    tree, few, (x_test, y_test) = load(args.seed)
    teacher = Teacher.from_tree(tree)
    student = distil(student_net(), teacher, *few, kd_ratio=args.kd_ratio)
    with torch.no_grad():
        print(f"top1 {100 * (student(x_test).argmax(1) == y_test).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
