"""Tabular data: four informative groups among twenty columns, an MLP with batch norm teaches a tiny one."""
import argparse
import math

import torch
import torch.nn as nn
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler


class DistillationCriterion(nn.Module):
    """weight * T^2 * KL(teacher at T || student at T) + (1 - weight) * negative log-likelihood"""

    def __init__(self, temperature: float = 2.0, weight: float = 0.8):
        super().__init__()
        self.register_buffer("temperature", torch.tensor(float(temperature)))
        self.weight = weight

    def soften(self, logits):
        return torch.log_softmax(logits / self.temperature, dim=-1)

    def forward(self, student_logits, teacher_logits, target):
        hard = torch.log_softmax(student_logits, dim=-1)
        nll = -hard.gather(-1, target[:, None]).mean()
        log_p = self.soften(teacher_logits)
        kd = torch.einsum("bk,bk->b", log_p.exp(), log_p - hard).mean()
        return self.weight * self.temperature**2 * kd + (1 - self.weight) * nll


class MLP(nn.Module):
    def __init__(self, columns, width, depth, classes, p=0.0):
        super().__init__()
        sizes = [columns] + [width] * depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(depth))
        self.drop = nn.Dropout(p)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        for layer, norm in zip(self.layers, self.norms):
            x = self.drop(torch.relu(norm(layer(x))))
        return self.head(x)


def table(seed):
    X, y = make_classification(
        n_samples=5000, n_features=20, n_informative=10, n_redundant=4, n_classes=6,
        n_clusters_per_class=2, class_sep=2.0, random_state=17,
    )
    X, X_test, y, y_test = train_test_split(X, y, test_size=1500, random_state=3, stratify=y)
    scaler = StandardScaler().fit(X)
    as_x = lambda a: torch.tensor(scaler.transform(a), dtype=torch.float32)
    x, y = as_x(X), torch.tensor(y)
    keep = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:400]
    return (x, y), (x[keep], y[keep]), (as_x(X_test), torch.tensor(y_test))


def batches(x, y, size):
    for rows in torch.randperm(len(x)).split(size):
        if len(rows) > 1:
            yield x[rows], y[rows]


def train_teacher(model, x, y, epochs=12):
    opt = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(epochs):
        for xb, yb in batches(x, y, 64):
            loss = nn.functional.cross_entropy(model(xb), yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
    return model.eval()


def train_student(model, teacher, criterion, x, y, epochs=40):
    opt = torch.optim.AdamW(model.parameters(), lr=4e-3)
    steps = epochs * math.ceil(len(x) / 32)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)
    model.train()
    for _ in range(epochs):
        for xb, yb in batches(x, y, 32):
            with torch.inference_mode():
                answers = teacher(xb)
            loss = criterion(model(xb), answers.clone(), yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
            decay.step()
    return model.eval()


def accuracy(model, x, y):
    with torch.no_grad():
        return 100.0 * (model(x).argmax(-1) == y).double().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--weight", type=float, default=0.8)
    ns = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(ns.seed)
    everything, few, test = table(ns.seed)
    teacher = train_teacher(MLP(20, 128, 2, 6, p=0.1), *everything)
    print(f"teacher {accuracy(teacher, *test):.2f}")
    student = train_student(MLP(20, 16, 1, 6), teacher, DistillationCriterion(weight=ns.weight), *few)
    print(f"top1 {accuracy(student, *test):.2f}")


if __name__ == "__main__":
    main()
