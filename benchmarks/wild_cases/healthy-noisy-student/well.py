"""Noisy student: the teacher answers to the clean image, and the student has to say the same of a disturbed one, with
dropout on top. The two inputs differ on purpose: the noise does not change what is seen. Row i is row i for both."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def disturb(x, strength=0.15):
    """Grey noise, and a tenth of the pixels lost."""
    x = x + strength * torch.randn_like(x)
    return x * (torch.rand_like(x) > 0.1)


class Net(nn.Module):
    def __init__(self, c, p):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, c, 3, padding=1), nn.Conv2d(c, 2 * c, 3, padding=1)
        self.p, self.fc = p, nn.Linear(8 * c, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.a(x)), 2)
        x = F.max_pool2d(F.relu(self.b(x)), 2).flatten(1)
        return self.fc(F.dropout(x, self.p, self.training))


@torch.no_grad()
def soft_pseudo_labels(teacher, clean):
    return teacher(clean).softmax(1)


def accuracy(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--pseudo", type=float, default=1.0, help="weight of the teacher's answers")
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    d = load_digits()
    x, y = torch.tensor(d.images[:, None] / 16).float(), torch.tensor(d.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1066))
    train, test = order[:1100], order[1100:]
    labelled = torch.zeros(len(x), dtype=torch.bool)
    labelled[train[torch.randperm(1100)[:150]]] = True

    teacher = Net(16, 0.2)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    teacher.train()
    for _ in range(9):
        for b in train[torch.randperm(1100)].split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    print(f"teacher {accuracy(teacher, x[test], y[test]):.2f}")
    teacher.eval()

    student = Net(5, 0.1)
    opt = torch.optim.Adam(student.parameters(), lr=4e-3)
    student.train()
    for _ in range(20):
        for b in train[torch.randperm(1100)].split(50):
            z = student(disturb(x[b]))
            loss = a.pseudo * F.cross_entropy(z, soft_pseudo_labels(teacher, x[b]))
            known = labelled[b]
            if known.any():
                loss = loss + F.cross_entropy(z[known], y[b][known])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"top1 {accuracy(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
