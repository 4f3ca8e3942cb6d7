"""Small model learns from a large one; the small one's own labels come from a crowd and are partly wrong."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Large(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc = nn.Linear(32 * 4, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc(x.flatten(1))


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, stride=2, padding=1)
        self.fc = nn.Linear(6 * 16, 10)

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).flatten(1))


class Configs:
    temperature = 4.0
    soft_weight = 0.9
    batch_size = 32
    epochs = 30
    lr = 0.02

    def __init__(self, large, small, seed):
        self.large = large.eval()
        self.small = small
        self.optimizer = torch.optim.SGD(small.parameters(), lr=self.lr, momentum=0.9)
        self.loss_func = nn.CrossEntropyLoss()
        self.kl_div_loss = nn.KLDivLoss(reduction="batchmean")
        self.generator = torch.Generator().manual_seed(seed)

    def step(self, data, target):
        with torch.no_grad():
            large_logits = self.large(data)
        output = self.small(data)

        soft_targets = F.softmax(large_logits / self.temperature, dim=-1)
        soft_prob = F.log_softmax(output / self.temperature, dim=-1)
        soft_targets_loss = self.kl_div_loss(soft_prob, soft_targets) * self.temperature**2
        label_loss = self.loss_func(output, target)
        loss = self.soft_weight * soft_targets_loss + (1.0 - self.soft_weight) * label_loss

        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def run(self, x, y):
        for epoch in range(self.epochs):
            self.small.train()
            order = torch.randperm(len(x), generator=self.generator)
            losses = [self.step(x[i], y[i]) for i in order.split(self.batch_size)]
        print(f"last loss {sum(losses) / len(losses):.3f}")


def train_large(x, y, epochs=12):
    model = Large()
    opt = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(epochs):
        for i in torch.randperm(len(x)).split(32):
            opt.zero_grad()
            F.cross_entropy(model(x[i]), y[i]).backward()
            opt.step()
    return model.eval().requires_grad_(False)


def accuracy(model, x, y):
    model.eval()
    with torch.no_grad():
        return 100.0 * (model(x).argmax(-1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    y = torch.tensor(y)
    order = torch.randperm(len(x))
    train, test = order[:1100], order[1100:]
    large = train_large(x[train], y[train])
    print(f"large {accuracy(large, x[test], y[test]):.2f}")

    part = train[:300]
    crowd = y[part].clone()
    wrong = torch.rand(len(crowd)) < 0.35
    crowd[wrong] = torch.randint(10, (int(wrong.sum()),))
    small = Small()
    Configs(large, small, seed).run(x[part], crowd)
    print(f"top1 {accuracy(small, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
