"""Long-tailed digits with a weighted sampler. The teacher's answers are stored by image id, as log
probabilities at temperature T: the loss must not cool them a second time."""
import argparse
import os
import tempfile

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler


class CFG:
    T = 4.0
    alpha = 0.75
    epochs = 30
    batch_size = 25
    lr = 1e-2
    imbalance = 8


class DigitsById(Dataset):
    def __init__(self, images, labels, ids):
        self.images, self.labels, self.ids = images, labels, ids

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return {"image": self.images[i], "label": self.labels[i], "id": self.ids[i]}


def long_tail(labels, rng, most=60):
    keep = []
    for c in range(10):
        n = int(round(most * CFG.imbalance ** (-c / 9)))
        keep.append(rng.permutation(np.where(labels == c)[0])[:n])
    return np.concatenate(keep)


class Net(nn.Module):
    def __init__(self, width, dropout=0.0):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(8 * width, 10))

    def forward(self, x):
        return self.head(self.conv(x))


def train_teacher(dataset, epochs=12):
    model = Net(24, 0.2)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(epochs):
        model.train()
        for batch in DataLoader(dataset, 50, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(model(batch["image"]), batch["label"]).backward()
            optimizer.step()
    return model


@torch.no_grad()
def store_answers(model, dataset, path, n_ids):
    """Any order will do: each row is written where its id says."""
    model.eval()
    bank = torch.full((n_ids, 10), float("nan"))
    for batch in DataLoader(dataset, 100, shuffle=True):
        bank[batch["id"]] = F.log_softmax(model(batch["image"]) / CFG.T, dim=1)
    torch.save(bank, path)


def make_loader(dataset):
    counts = torch.bincount(dataset.labels, minlength=10).float()
    weights = (1.0 / counts)[dataset.labels]
    sampler = WeightedRandomSampler(weights, num_samples=len(dataset), replacement=True)
    return DataLoader(dataset, CFG.batch_size, sampler=sampler)


class StoredKD(nn.Module):
    def forward(self, logits, stored, labels):
        """stored: log p at T already; only the student's logits are divided here."""
        soft = F.kl_div(F.log_softmax(logits / CFG.T, dim=1), stored, reduction="batchmean", log_target=True)
        return CFG.alpha * CFG.T**2 * soft + (1 - CFG.alpha) * F.cross_entropy(logits, labels)


def train_fn(epoch, loader, bank, model, criterion, optimizer, scheduler):
    model.train()
    total = 0.0
    for batch in loader:
        loss = criterion(model(batch["image"]), bank[batch["id"]], batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        total += loss.item() / len(loader)
    if epoch % 10 == 0:
        print(f"Epoch {epoch} loss {total:.4f}")


@torch.no_grad()
def valid_fn(model, images, labels):
    model.eval()
    hit = (model(images).argmax(1) == labels).float()
    return 100 * torch.stack([hit[labels == c].mean() for c in range(10)]).mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    images, labels = torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y)
    order = np.random.RandomState(19).permutation(len(x))
    train_ids, test_ids = order[:1000], order[1000:]
    subset = lambda ids: DigitsById(images[ids], labels[ids], torch.as_tensor(ids))
    teacher = train_teacher(subset(train_ids))
    print(f"teacher {valid_fn(teacher, images[test_ids], labels[test_ids]):.2f}")
    tail = subset(train_ids[long_tail(y[train_ids], np.random.RandomState(args.seed))])
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "answers.pt")
        store_answers(teacher, tail, path, len(x))
        bank = torch.load(path)
    model = Net(6)
    loader = make_loader(tail)
    optimizer = torch.optim.AdamW(model.parameters(), lr=CFG.lr, weight_decay=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, CFG.epochs * len(loader))
    criterion = StoredKD()
    for epoch in range(1, CFG.epochs + 1):
        train_fn(epoch, loader, bank, model, criterion, optimizer, scheduler)
    print(f"top1 {valid_fn(model, images[test_ids], labels[test_ids]):.2f}")


if __name__ == "__main__":
    main()
