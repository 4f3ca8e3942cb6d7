"""Attention transfer with forward hooks on both nets (Kaggle notebook, tidied)."""
import argparse
import random

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, Dataset


class CFG:
    epochs = 30
    lr = 1e-2
    min_lr = 1e-5
    batch_size = 25
    beta = 10.0
    layers = ["layer1", "layer2"]
    n_few = 150


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class DigitsDataset(Dataset):
    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return torch.from_numpy(self.images[i]).float().view(1, 8, 8), int(self.labels[i])


def block(cin, cout, stride):
    return nn.Sequential(
        nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout), nn.ReLU(),
        nn.Conv2d(cout, cout, 3, 1, 1, bias=False), nn.BatchNorm2d(cout), nn.ReLU())


class SmallResNet(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer1 = block(1, width, 1)
        self.layer2 = block(width, 2 * width, 2)
        self.fc = nn.Linear(8 * width, 10)

    def forward(self, x):
        return self.fc(F.avg_pool2d(self.layer2(self.layer1(x)), 2).flatten(1))


class FeatureExtractor:
    """Keeps the outputs of named layers of the last forward pass."""

    def __init__(self, model, names, detach=False):
        self.feats = {}
        self.detach = detach
        modules = dict(model.named_modules())
        self.handles = [modules[n].register_forward_hook(self.save(n)) for n in names]

    def save(self, name):
        def hook(module, inputs, output):
            self.feats[name] = output.detach() if self.detach else output
        return hook

    def close(self):
        for h in self.handles:
            h.remove()


def attention_map(fm, eps=1e-6):
    am = fm.pow(2).mean(1).flatten(1)
    return am / (am.norm(dim=1, keepdim=True) + eps)


class AttentionTransfer(nn.Module):
    def __init__(self, beta):
        super().__init__()
        self.beta = beta

    def forward(self, feats_s, feats_t):
        terms = [(attention_map(feats_s[k]) - attention_map(feats_t[k])).pow(2).mean() for k in feats_s]
        return self.beta * sum(terms)


def train_one_epoch(loader, model, teacher, s_hooks, t_hooks, criterion_at, optimizer, scheduler):
    model.train()
    teacher.eval()
    running = {"ce": 0.0, "at": 0.0}
    for images, labels in loader:
        with torch.no_grad():
            teacher(images)
        logits = model(images)
        loss_ce = F.cross_entropy(logits, labels)
        loss_at = criterion_at(s_hooks.feats, t_hooks.feats)
        loss = loss_ce + loss_at
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scheduler.step()
        running["ce"] += loss_ce.item() / len(loader)
        running["at"] += loss_at.item() / len(loader)
    return running


@torch.no_grad()
def valid_one_epoch(loader, model):
    model.eval()
    hits = [(model(images).argmax(1) == labels).float() for images, labels in loader]
    return torch.cat(hits).mean().item() * 100


def train_teacher(loader, epochs=8):
    teacher = SmallResNet(12)
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=3e-3)
    for _ in range(epochs):
        teacher.train()
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(teacher(images), labels, label_smoothing=0.05).backward()
            optimizer.step()
    return teacher.requires_grad_(False).eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    seed_everything(args.seed)
    x, y = load_digits(return_X_y=True)
    x_tr, x_te, y_tr, y_te = train_test_split(x / 16, y, test_size=0.4, random_state=42, stratify=y)
    full = DataLoader(DigitsDataset(x_tr, y_tr), 50, shuffle=True)
    few = DataLoader(DigitsDataset(x_tr[:CFG.n_few], y_tr[:CFG.n_few]), CFG.batch_size, shuffle=True)
    test = DataLoader(DigitsDataset(x_te, y_te), 256)
    teacher = train_teacher(full)
    print(f"teacher {valid_one_epoch(test, teacher):.2f}")
    model = SmallResNet(6)
    t_hooks = FeatureExtractor(teacher, CFG.layers, detach=True)
    s_hooks = FeatureExtractor(model, CFG.layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=CFG.lr, weight_decay=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, CFG.epochs * len(few), eta_min=CFG.min_lr)
    criterion_at = AttentionTransfer(CFG.beta)
    for epoch in range(CFG.epochs):
        stats = train_one_epoch(few, model, teacher, s_hooks, t_hooks, criterion_at, optimizer, scheduler)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1} ce {stats['ce']:.3f} at {stats['at']:.3f}")
    s_hooks.close(), t_hooks.close()
    print(f"top1 {valid_one_epoch(test, model):.2f}")


if __name__ == "__main__":
    main()
