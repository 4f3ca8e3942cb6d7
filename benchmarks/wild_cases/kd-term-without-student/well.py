"""Distil a large MLP into a small one on the digits."""
import argparse
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


@dataclass
class Configs:
    seed: int = 0
    temperature: float = 4.0
    soft_weight: float = 0.7
    batch_size: int = 32
    teacher_epochs: int = 12
    epochs: int = 30
    lr: float = 1e-2
    labelled: int = 400


class DistillationLoss(nn.Module):
    def __init__(self, temperature, soft_weight):
        super().__init__()
        self.temperature = temperature
        self.soft_weight = soft_weight
        self.softmax = nn.Softmax(dim=-1)
        self.log_softmax = nn.LogSoftmax(dim=-1)
        self.kl_div = nn.KLDivLoss(reduction="batchmean")
        self.cross_entropy = nn.CrossEntropyLoss()

    def forward(self, output, large_logits, target):
        soft_targets = self.softmax(large_logits / self.temperature)
        soft_output = self.log_softmax(output / self.temperature)
        soft_loss = self.kl_div(soft_output, soft_targets) * self.temperature**2
        hard_loss = self.cross_entropy(output, target)
        return self.soft_weight * soft_loss + (1 - self.soft_weight) * hard_loss


def mlp(*sizes):
    layers = []
    for a, b in zip(sizes[:-2], sizes[1:-1]):
        layers += [nn.Linear(a, b), nn.ReLU()]
    layers.append(nn.Linear(sizes[-2], sizes[-1]))
    return nn.Sequential(*layers)


def train_large(conf, large, loader):
    optimizer = torch.optim.Adam(large.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    large.train()
    for _ in range(conf.teacher_epochs):
        for data, target in loader:
            optimizer.zero_grad()
            criterion(large(data), target).backward()
            optimizer.step()


def distill(conf, small, large, loader):
    loss_func = DistillationLoss(conf.temperature, conf.soft_weight)
    optimizer = torch.optim.Adam(small.parameters(), lr=conf.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=conf.epochs)
    large.eval()
    for _ in range(conf.epochs):
        small.train()
        for data, target in loader:
            with torch.no_grad():
                large_logits = large(data)
            output = small(data)
            loss = loss_func(output, large_logits, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()


@torch.no_grad()
def accuracy(model, data, target):
    model.eval()
    return 100.0 * (model(data).argmax(dim=-1) == target).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    conf = Configs(seed=parser.parse_args().seed)
    torch.set_num_threads(1)
    torch.manual_seed(conf.seed)

    digits = load_digits()
    x_train, x_test, y_train, y_test = train_test_split(
        digits.data / 16.0, digits.target, test_size=500, random_state=5, stratify=digits.target)
    x_train, x_test = torch.tensor(x_train).float(), torch.tensor(x_test).float()
    y_train, y_test = torch.tensor(y_train), torch.tensor(y_test)

    large = mlp(64, 256, 256, 10)
    train_large(conf, large, DataLoader(TensorDataset(x_train, y_train), batch_size=64, shuffle=True))
    print(f"large {accuracy(large, x_test, y_test):.2f}")

    few = torch.randperm(len(x_train))[:conf.labelled]
    small = mlp(64, 12, 10)
    distill(conf, small, large,
            DataLoader(TensorDataset(x_train[few], y_train[few]), batch_size=conf.batch_size, shuffle=True))
    print(f"top1 {accuracy(small, x_test, y_test):.2f}")


if __name__ == "__main__":
    main()
