"""Few shots per class; the teacher's answers are computed once and kept in a bank."""
import argparse
import os
import tempfile

import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset, Subset


class IndexedDigits(Dataset):
    """Gives (image, label, index); the index addresses the bank of answers."""

    def __init__(self, images, targets):
        self.images = torch.as_tensor(images, dtype=torch.float32)
        self.targets = torch.as_tensor(targets)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.images[index], self.targets[index], index


class FewShot(Dataset):
    """k examples per class of a larger set."""

    def __init__(self, base, k, rng):
        self.base = base
        targets = base.targets.numpy()
        picked = [rng.choice(np.where(targets == c)[0], k, replace=False) for c in np.unique(targets)]
        self.indices = np.concatenate(picked)

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, i):
        image, target, _ = self.base[int(self.indices[i])]
        return image, target, i


class AnswerBank:
    def __init__(self, path):
        self.path = path

    @torch.no_grad()
    def build(self, teacher, dataset, batch_size=200):
        teacher.eval()
        logits = torch.zeros(len(dataset), 10)
        for image, _, index in DataLoader(dataset, batch_size):
            logits[index] = teacher(image)
        torch.save(logits.half(), self.path)

    def open(self):
        self.logits = torch.load(self.path).float()
        return self

    def __getitem__(self, index):
        return self.logits[index]


class DistillKL(nn.Module):
    def __init__(self, T):
        super().__init__()
        self.T = T

    def forward(self, y_s, y_t):
        p_s = torch.log_softmax(y_s / self.T, dim=1)
        p_t = torch.softmax(y_t / self.T, dim=1)
        return nn.functional.kl_div(p_s, p_t, reduction="sum") * self.T**2 / y_s.shape[0]


def mlp(*sizes, drop=0.0):
    layers = []
    for a, b in zip(sizes[:-2], sizes[1:-1]):
        layers += [nn.Linear(a, b), nn.LayerNorm(b), nn.GELU(), nn.Dropout(drop)]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def train_teacher(dataset, epochs):
    model = mlp(64, 128, 128, 10, drop=0.2)
    opt = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        model.train()
        for image, target, _ in DataLoader(dataset, 50, shuffle=True):
            opt.zero_grad()
            nn.functional.cross_entropy(model(image), target).backward()
            opt.step()
    return model


def train_distill(epoch, loader, model, bank, criterion_list, optimizer, opt):
    criterion_cls, criterion_div = criterion_list
    model.train()
    total = 0.0
    for image, target, index in loader:
        logit_s = model(image)
        logit_t = bank[index]
        loss = opt.gamma * criterion_cls(logit_s, target) + opt.alpha * criterion_div(logit_s, logit_t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() / len(loader)
    if epoch % 20 == 0:
        print(f"==> epoch {epoch} loss {total:.3f}")


@torch.no_grad()
def validate(loader, model):
    model.eval()
    return sum((model(image).argmax(1) == target).sum().item() for image, target, _ in loader) * 100 / len(loader.dataset)


def parse_option():
    parser = argparse.ArgumentParser("few-shot distillation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shots", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("-r", "--gamma", type=float, default=0.1)
    parser.add_argument("-a", "--alpha", type=float, default=0.9)
    parser.add_argument("--kd_T", type=float, default=4)
    return parser.parse_args()


def main():
    opt = parse_option()
    torch.set_num_threads(1)
    torch.manual_seed(opt.seed)
    x, y = load_digits(return_X_y=True)
    order = np.random.RandomState(11).permutation(len(x))
    everything = IndexedDigits(x / 16, y)
    base = IndexedDigits(x[order[:1100]] / 16, y[order[:1100]])
    test_loader = DataLoader(Subset(everything, order[1100:].tolist()), 350)
    teacher = train_teacher(base, 12)
    print(f"teacher {validate(test_loader, teacher):.2f}")
    few = FewShot(base, opt.shots, np.random.RandomState(opt.seed))
    with tempfile.TemporaryDirectory() as folder:
        bank = AnswerBank(os.path.join(folder, "answers.pt"))
        bank.build(teacher, base)
        bank.open()
    model = mlp(64, 24, 10)
    criterion_list = nn.ModuleList([nn.CrossEntropyLoss(), DistillKL(opt.kd_T)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-3)
    train_loader = DataLoader(few, 30, shuffle=True)
    for epoch in range(1, opt.epochs + 1):
        train_distill(epoch, train_loader, model, bank, criterion_list, optimizer, opt)
    print(f"top1 {validate(test_loader, model):.2f}")


if __name__ == "__main__":
    main()
