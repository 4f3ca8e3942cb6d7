"""Multi-label distillation: six yes/no attributes of a digit, logits of the teacher cached per sample."""
import argparse

import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

ATTRIBUTES = {
    "even": {0, 2, 4, 6, 8},
    "prime": {2, 3, 5, 7},
    "loop": {0, 6, 8, 9},
    "large": {5, 6, 7, 8, 9},
    "square": {0, 1, 4, 9},
    "straight": {1, 4, 7},
}


class AttributeNet(nn.Module):
    def __init__(self, hidden, p=0.0):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.GELU(), nn.Dropout(p), nn.Linear(hidden, len(ATTRIBUTES)))

    def forward(self, x):
        return self.net(x)


class MultiLabelKD(nn.Module):
    """BCE on the annotations plus a tempered BCE towards the teacher's probabilities."""

    def __init__(self, temperature=3.0, lam=0.5):
        super().__init__()
        self.t, self.lam = temperature, lam
        self.bce = nn.BCEWithLogitsLoss()

    def forward(self, logits, teacher_logits, target):
        soft_target = torch.sigmoid(teacher_logits / self.t)
        soft = self.bce(logits / self.t, soft_target) * self.t**2
        hard = self.bce(logits, target)
        return self.lam * soft + (1 - self.lam) * hard


def load():
    bunch = load_digits()
    x = torch.from_numpy((bunch.images / 16).astype(np.float32))
    y = torch.tensor([[float(d in s) for s in ATTRIBUTES.values()] for d in bunch.target])
    order = torch.from_numpy(np.random.RandomState(17).permutation(len(x)))
    return x[order], y[order]


def train_teacher(x, y):
    teacher = AttributeNet(160, p=0.2)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(12):
        teacher.train()
        for idx in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(teacher(x[idx]), y[idx]).backward()
            optimizer.step()
    return teacher


@torch.no_grad()
def cache_logits(teacher, x):
    teacher.eval()
    return torch.cat([teacher(chunk) for chunk in x.split(128)])


@torch.no_grad()
def exact_match(net, x, y):
    net.eval()
    return 100.0 * ((net(x) > 0).float() == y).all(1).float().mean().item()


def distil(x, y, cached, lam, epochs=30):
    student = AttributeNet(16)
    criterion = MultiLabelKD(lam=lam)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2, weight_decay=1e-4)
    loader = DataLoader(TensorDataset(x, cached, y), batch_size=32, shuffle=True)
    for _ in range(epochs):
        student.train()
        for images, answers, target in loader:
            optimizer.zero_grad(set_to_none=True)
            criterion(student(images), answers, target).backward()
            optimizer.step()
    return student


def main(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lam", type=float, default=0.6)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load()
    xt, yt, xv, yv = x[:1200], y[:1200], x[1200:], y[1200:]
    teacher = train_teacher(xt, yt)
    print("teacher exact match %.2f" % exact_match(teacher, xv, yv))
    few = torch.randperm(1200, generator=torch.Generator().manual_seed(args.seed))[:320]
    student = distil(xt[few], yt[few], cache_logits(teacher, xt[few]), args.lam)
    print("top1 %.2f" % exact_match(student, xv, yv))


if __name__ == "__main__":
    main()
