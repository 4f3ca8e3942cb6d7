# Learning without forgetting on digits: five classes first, then the other five.
import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


def multi_class_cross_entropy(logits, labels, T):
    # labels are the old network's scores for the classes it knows
    outputs = torch.log_softmax(logits / T, dim=1)
    labels = torch.softmax(labels / T, dim=1)
    outputs = torch.sum(outputs * labels, dim=1)
    outputs = -torch.mean(outputs, dim=0)
    return outputs.data.clone().requires_grad_(True) * T * T


class Model(nn.Module):
    def __init__(self, n_classes, hidden=48):
        super().__init__()
        self.feature = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.fc = nn.Linear(hidden, n_classes, bias=False)
        self.n_classes = n_classes

    def forward(self, x):
        return self.fc(self.feature(x))

    def increment_classes(self, n):
        old = self.fc.weight.data
        self.fc = nn.Linear(old.size(1), self.n_classes + n, bias=False)
        self.fc.weight.data[: self.n_classes] = old
        self.n_classes += n

    def update(self, loader, old=None, epochs=15, lr=2e-3, T=2.0, weight=3.0):
        optimizer = torch.optim.Adam(self.parameters(), lr=lr)
        self.train()
        for _ in range(epochs):
            for images, labels in loader:
                optimizer.zero_grad()
                logits = self.forward(images)
                known = 0 if old is None else old.n_classes
                loss = F.cross_entropy(logits[:, known:], labels - known)
                if old is not None:
                    with torch.no_grad():
                        dist_target = old(images)
                    dist_loss = multi_class_cross_entropy(logits[:, :known], dist_target, T)
                    loss = loss + weight * dist_loss
                loss.backward()
                optimizer.step()


def read(seed):
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(5))
    x, y = x[p], y[p]
    return (x[:1200], y[:1200]), (x[1200:], y[1200:])


def task(pair, lo, hi):
    keep = (pair[1] >= lo) & (pair[1] < hi)
    return DataLoader(TensorDataset(pair[0][keep], pair[1][keep]), batch_size=32, shuffle=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weight", type=float, default=3.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    train, test = read(args.seed)
    model = Model(5)
    model.update(task(train, 0, 5))
    old = copy.deepcopy(model).eval()
    for p in old.parameters():
        p.requires_grad_(False)
    model.increment_classes(5)
    model.update(task(train, 5, 10), old=old, epochs=20, lr=5e-3, weight=args.weight)
    model.eval()
    with torch.no_grad():
        logits = model(test[0])
        # the task is known at test time, as in the paper
        first, second = logits[:, :5].argmax(1), logits[:, 5:].argmax(1) + 5
        hit = (torch.where(test[1] < 5, first, second) == test[1]).float()
    print("old classes %.2f" % (100 * hit[test[1] < 5].mean()))
    print("top1 %.2f" % (100 * hit.mean()))


if __name__ == "__main__":
    main()
