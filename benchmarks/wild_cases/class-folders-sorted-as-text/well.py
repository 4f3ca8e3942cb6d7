"""Twenty classes (digits, and digits in negative); the teacher comes from a folder-per-class project."""
import argparse
import os
import tempfile

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset

NUM_CLASSES = 20


class AverageMeter(object):
    def __init__(self):
        self.val = self.sum = self.count = self.avg = 0

    def update(self, val, n=1):
        self.val = val
        self.sum += val * n
        self.count += n
        self.avg = self.sum / self.count


class FolderDataset(Dataset):
    """root/<class>/images.npy; classes are found as in torchvision's ImageFolder."""

    def __init__(self, root):
        self.classes = sorted(d.name for d in os.scandir(root) if d.is_dir())
        self.class_to_idx = {name: i for i, name in enumerate(self.classes)}
        images, targets = [], []
        for name in self.classes:
            arr = np.load(os.path.join(root, name, "images.npy"))
            images.append(arr)
            targets += [self.class_to_idx[name]] * len(arr)
        self.images, self.targets = np.concatenate(images), targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return torch.from_numpy(self.images[i]).float(), self.targets[i]


class CsvDataset(Dataset):
    """Rows of a table: the class number, then 64 pixels."""

    def __init__(self, table):
        self.labels = table[:, 0].astype("int64")
        self.pixels = table[:, 1:].astype("float32")

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return torch.from_numpy(self.pixels[i]), int(self.labels[i])


class Net(nn.Module):
    def __init__(self, hidden, dropout=0.0):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout),
                                  nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU())
        self.fc = nn.Linear(hidden, NUM_CLASSES)

    def forward(self, x):
        return self.fc(self.body(x))


def write_folders(root, x, y):
    for c in range(NUM_CLASSES):
        os.makedirs(os.path.join(root, str(c)))
        np.save(os.path.join(root, str(c), "images.npy"), x[y == c])


def pretrain_teacher(root, path, epochs=10):
    dataset = FolderDataset(root)
    model = Net(96, 0.2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        model.train()
        for images, targets in DataLoader(dataset, 64, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(model(images), targets).backward()
            optimizer.step()
    torch.save({"model": model.state_dict(), "class_to_idx": dataset.class_to_idx}, path)


class Teacher(nn.Module):
    """The pretrained net, with its answers in the order of the csv's labels."""

    def __init__(self, path):
        super().__init__()
        ckpt = torch.load(path)
        self.net = Net(96, 0.2)
        self.net.load_state_dict(ckpt["model"])
        self.order = [ckpt["class_to_idx"][str(c)] for c in range(NUM_CLASSES)]
        self.eval()

    @torch.no_grad()
    def forward(self, x):
        return self.net(x)[:, self.order]


def kd_criterion(outputs, teacher_outputs, labels, alpha=0.8, T=3.0):
    soft = nn.KLDivLoss(reduction="batchmean")(F.log_softmax(outputs / T, dim=1), F.softmax(teacher_outputs / T, dim=1))
    return soft * (alpha * T * T) + F.cross_entropy(outputs, labels) * (1.0 - alpha)


def train_fn(loader, teacher, student, optimizer, scheduler):
    student.train()
    losses = AverageMeter()
    for images, labels in loader:
        loss = kd_criterion(student(images), teacher(images), labels)
        losses.update(loss.item(), images.size(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return losses.avg


@torch.no_grad()
def valid_fn(loader, model):
    model.eval()
    top1 = AverageMeter()
    for images, labels in loader:
        top1.update((model(images).argmax(1) == labels).float().mean().item() * 100, images.size(0))
    return top1.avg


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x = np.concatenate([x / 16, 1 - x / 16])
    y = np.concatenate([y, y + 10])
    order = np.random.RandomState(17).permutation(len(x))
    train, test = order[:2400], order[2400:]
    table = np.column_stack([y, x])
    with tempfile.TemporaryDirectory() as tmp:
        write_folders(os.path.join(tmp, "train"), x[train], y[train])
        pretrain_teacher(os.path.join(tmp, "train"), os.path.join(tmp, "teacher.pt"))
        teacher = Teacher(os.path.join(tmp, "teacher.pt"))
    loader = DataLoader(CsvDataset(table[train[:500]]), 50, shuffle=True)
    test_loader = DataLoader(CsvDataset(table[test]), 400)
    student = Net(24)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2, weight_decay=1e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=args.epochs * len(loader))
    for epoch in range(args.epochs):
        loss = train_fn(loader, teacher, student, optimizer, scheduler)
        if epoch % 10 == 9:
            print(f"Epoch {epoch + 1} loss {loss:.4f}")
    print(f"top1 {valid_fn(test_loader, student):.2f}")


if __name__ == "__main__":
    main()
