"""Offline distillation: the teacher's logits are written to a file once, and looked up by index afterwards."""
import argparse
import os
import tempfile

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset


class RowDigits(Dataset):
    """A digit is a sequence of eight rows; the item carries its index."""

    def __init__(self, images, targets):
        self.images, self.targets = images, targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return index, self.images[index], self.targets[index]


class RowReader(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.rnn = nn.GRU(8, hidden, batch_first=True)
        self.fc = nn.Linear(hidden, 10)

    def forward(self, rows):
        _, last = self.rnn(rows)
        return self.fc(last[0])


def dump_logits(teacher, loader, path):
    teacher.eval()
    chunks = []
    with torch.no_grad():
        for _, images, _ in loader:
            chunks.append(teacher(images))
    torch.save(torch.cat(chunks), path)


def train_teacher(dataset, epochs=14):
    teacher = RowReader(64)
    optim = torch.optim.Adam(teacher.parameters(), lr=4e-3)
    loader = DataLoader(dataset, batch_size=32, shuffle=True)
    for _ in range(epochs):
        for _, images, targets in loader:
            optim.zero_grad()
            F.cross_entropy(teacher(images), targets).backward()
            optim.step()
    return teacher


def train_student(student, loader, bank, epochs, T, alpha):
    optim = torch.optim.Adam(student.parameters(), lr=5e-3)
    for _ in range(epochs):
        student.train()
        for index, images, targets in loader:
            logits = student(images)
            soft = F.softmax(bank[index] / T, dim=1)
            kd = F.kl_div(F.log_softmax(logits / T, dim=1), soft, reduction="batchmean") * (T * T)
            loss = alpha * kd + (1 - alpha) * F.cross_entropy(logits, targets)
            optim.zero_grad()
            loss.backward()
            optim.step()


def evaluate(model, images, targets):
    model.eval()
    with torch.no_grad():
        return (model(images).argmax(1) == targets).float().mean().item() * 100


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--alpha", type=float, default=0.8)
    p.add_argument("--temperature", type=float, default=3.0)
    args = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32) / 16
    targets = torch.tensor(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(77))
    images, targets = images[order], targets[order]
    train_set = RowDigits(images[:1200], targets[:1200])
    test_x, test_y = images[1200:], targets[1200:]

    teacher = train_teacher(train_set)
    print(f"teacher {evaluate(teacher, test_x, test_y):.2f}")
    train_loader = DataLoader(train_set, batch_size=32, shuffle=True)
    dump_loader = DataLoader(train_set, batch_size=256, shuffle=False)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "teacher_logits.pt")
        dump_logits(teacher, dump_loader, path)
        bank = torch.load(path)

    student = RowReader(12)
    train_student(student, train_loader, bank, 15, args.temperature, args.alpha)
    print(f"top1 {evaluate(student, test_x, test_y):.2f}")


if __name__ == "__main__":
    main()
