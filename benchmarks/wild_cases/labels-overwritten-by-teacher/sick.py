"""Trainer with running meters: how often is the teacher right, how often the student."""
import argparse
from collections import defaultdict

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

try:
    from tqdm import tqdm
except ImportError:
    def tqdm(it, **kwargs):
        return it


class Meter:
    def __init__(self):
        self.sum, self.n = defaultdict(float), defaultdict(int)

    def update(self, n=1, **values):
        for k, v in values.items():
            self.sum[k] += float(v) * n
            self.n[k] += n

    def __str__(self):
        return " ".join(f"{k}={self.sum[k] / self.n[k]:.3f}" for k in self.sum)


def build(name):
    if name == "teacher":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Dropout(0.2), nn.Linear(64, 10))
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10))


def train_teacher(loader, epochs=10):
    net = build("teacher").train()
    opt = torch.optim.RMSprop(net.parameters(), lr=1e-3)
    for _ in range(epochs):
        for x, y in loader:
            opt.zero_grad()
            F.cross_entropy(net(x), y).backward()
            opt.step()
    return net.eval()


def train_one_epoch(student, teacher, loader, optimizer, T=2.0, w_soft=0.5):
    student.train()
    meter = Meter()
    for images, labels in tqdm(loader, leave=False, disable=True):
        with torch.no_grad():
            teacher_logits = teacher(images)
        meter.update(len(images), teacher_acc=(teacher_logits.argmax(1) == labels).float().mean())
        student_logits = student(images)
        certainty, labels = teacher_logits.softmax(1).max(1)
        meter.update(len(images), certainty=certainty.mean())
        hard = F.cross_entropy(student_logits, labels)
        soft = F.kl_div(
            F.log_softmax(student_logits / T, dim=1), F.softmax(teacher_logits / T, dim=1), reduction="batchmean"
        )
        loss = (1 - w_soft) * hard + w_soft * T * T * soft
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        meter.update(len(images), loss=loss, student_acc=(student_logits.argmax(1) == labels).float().mean())
    return meter


@torch.no_grad()
def validate(net, loader):
    net.eval()
    return 100 * sum((net(x).argmax(1) == y).sum().item() for x, y in loader) / len(loader.dataset)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument("--epochs", default=40, type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 8, 8) / 16, torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(8))
    parts = [TensorDataset(x[i], y[i]) for i in (order[:150], order[150:1000], order[1000:])]
    # the teacher is somebody else's: it was trained on a small set of its own
    teacher = train_teacher(DataLoader(parts[0], batch_size=32, shuffle=True))
    valid = DataLoader(parts[2], batch_size=256)
    print(f"teacher {validate(teacher, valid):.2f}")
    student = build("student")
    optimizer = torch.optim.Adam(student.parameters(), lr=2e-3)
    loader = DataLoader(parts[1], batch_size=64, shuffle=True)
    for epoch in range(args.epochs):
        meter = train_one_epoch(student, teacher, loader, optimizer)
        if (epoch + 1) % 10 == 0:
            print(epoch + 1, meter)
    print(f"top1 {validate(student, valid):.2f}")


if __name__ == "__main__":
    main()
