"""The teacher's logits are written once, by number of the image; the student trains from that table."""
import argparse
import functools
import io

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset


class Numbered(Dataset):
    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, n):
        return n, self.images[n], self.labels[n]


def distillation(student_logits, teacher_logits, temperature):
    log_q = F.log_softmax(student_logits, dim=-1) / temperature
    p = F.softmax(teacher_logits / temperature, dim=-1)
    return (p * (p.log() - log_q)).sum(-1).mean() * temperature**2


def objective(logits, labels, table, numbers, temperature, alpha):
    kd = distillation(logits, table[numbers], temperature)
    return alpha * kd + (1 - alpha) * F.cross_entropy(logits, labels)


def write_table(teacher, images):
    with torch.no_grad():
        logits = torch.cat([teacher(part) for part in images.split(128)])
    file = io.BytesIO()  # stands for a file on a disk
    np.save(file, logits.numpy())
    file.seek(0)
    return file


def fit(net, loader, loss, epochs, lr):
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [epochs * 2 // 3, epochs * 5 // 6], gamma=0.2)
    net.train()
    for epoch in range(epochs):
        for numbers, images, labels in loader:
            optimizer.zero_grad()
            loss(net(images), labels, numbers=numbers).backward()
            optimizer.step()
        scheduler.step()
    net.eval()


def labels_only(logits, labels, numbers):
    return F.cross_entropy(logits, labels)


def top1(net, images, labels):
    with torch.no_grad():
        return net(images).argmax(-1).eq(labels).float().mean().item() * 100


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=5.0)
    parser.add_argument("--alpha", type=float, default=0.9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    data = load_digits()
    images = torch.tensor(data.data, dtype=torch.float32) / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(23))
    images, labels = images[order], labels[order]
    loader = DataLoader(Numbered(images[:900], labels[:900]), batch_size=30, shuffle=True)

    teacher = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    fit(teacher, loader, labels_only, 15, 0.05)
    print(f"teacher {top1(teacher, images[900:], labels[900:]):.2f}")
    table = torch.from_numpy(np.load(write_table(teacher, images[:900])))

    student = nn.Sequential(nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 10))
    loss = functools.partial(objective, table=table, temperature=args.temperature, alpha=args.alpha)
    few = DataLoader(Numbered(images[:300], labels[:300]), batch_size=30, shuffle=True)
    fit(student, few, loss, 40, 0.02)
    print(f"top1 {top1(student, images[900:], labels[900:]):.2f}")


if __name__ == "__main__":
    main()
