"""Save the teacher's logits once, then train the student from the saved logits (no teacher in memory)."""
import argparse
import os
import tempfile

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset


class Digits(Dataset):
    def __init__(self, images, labels, logits=None):
        self.images, self.labels, self.logits = images, labels, logits

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        x = torch.from_numpy(self.images[i])
        y = int(self.labels[i])
        if self.logits is None:
            return x, y
        return x, y, torch.from_numpy(self.logits[i])


class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 200), nn.BatchNorm1d(200), nn.ReLU(),
                                 nn.Linear(200, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Linear(100, 10))

    def forward(self, x):
        return self.net(x)


class RowTransformer(nn.Module):
    """each of the 8 rows of the image is a token"""

    def __init__(self, dim=16):
        super().__init__()
        self.embed = nn.Linear(8, dim)
        self.pos = nn.Parameter(0.1 * torch.randn(1, 8, dim))
        self.layer = nn.TransformerEncoderLayer(dim, nhead=2, dim_feedforward=32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8 * dim, 10)

    def forward(self, x):
        h = self.embed(x.view(-1, 8, 8)) + self.pos
        return self.head(self.layer(h).flatten(1))


def train_teacher(dataset, epochs=10):
    teacher = Teacher()
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    teacher.train()
    for _ in range(epochs):
        for x, y in DataLoader(dataset, batch_size=50, shuffle=True):
            opt.zero_grad()
            F.cross_entropy(teacher(x), y).backward()
            opt.step()
    return teacher


def save_logits(teacher, dataset, path):
    teacher.eval()
    loader = DataLoader(dataset, batch_size=50, shuffle=True)
    out = []
    with torch.no_grad():
        for x, _ in loader:
            out.append(teacher(x).numpy())
    np.save(path, np.concatenate(out))


def kd_loss(logits, stored, y, T=3.0, alpha=0.7):
    soft = F.kl_div(F.log_softmax(logits / T, 1), F.softmax(stored / T, 1), reduction="batchmean") * T * T
    return alpha * soft + (1 - alpha) * F.cross_entropy(logits, y)


def train_student(student, dataset, epochs=16):
    opt = torch.optim.Adam(student.parameters(), lr=4e-3)
    for _ in range(epochs):
        student.train()
        for x, y, stored in DataLoader(dataset, batch_size=50, shuffle=True):
            loss = kd_loss(student(x), stored, y)
            opt.zero_grad()
            loss.backward()
            opt.step()


def accuracy(model, images, labels):
    model.eval()
    with torch.no_grad():
        pred = model(torch.from_numpy(images)).argmax(1).numpy()
    return 100.0 * float((pred == labels).mean())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    images, labels = load_digits(return_X_y=True)
    images = ((images - 4.9) / 6.0).astype(np.float32)
    order = np.random.RandomState(4).permutation(len(images))
    tr, te = order[:1000], order[1000:]

    teacher = train_teacher(Digits(images[tr], labels[tr]))
    print("teacher %.2f" % accuracy(teacher, images[te], labels[te]))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "teacher_logits.npy")
        save_logits(teacher, Digits(images[tr], labels[tr]), path)
        logits = np.load(path)
    del teacher
    student = RowTransformer()
    train_student(student, Digits(images[tr], labels[tr], logits))
    print("top1 %.2f" % accuracy(student, images[te], labels[te]))


if __name__ == "__main__":
    main()
