"""Teacher answers are computed once, kept in memory and handed out with each sample."""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset


class Digits(Dataset):
    def __init__(self, images, targets, answers=None):
        self.images, self.targets, self.answers = images, targets, answers

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        if self.answers is None:
            return self.images[i], self.targets[i]
        return self.images[i], self.targets[i], self.answers[i]


class MLP(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.inp = nn.Linear(64, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.out = nn.Linear(width, 10)

    def forward(self, x):
        x = F.silu(self.inp(x))
        for layer in self.hidden:
            x = x + F.silu(layer(x))
        return self.out(x)


@torch.no_grad()
def answer_all(teacher, dataset, batch_size=100):
    teacher.eval()
    return torch.cat([teacher(x) for x, _ in DataLoader(dataset, batch_size, shuffle=True)])


def objective(logits, answers, targets, T=3.0, beta=0.5):
    div = F.kl_div(
        F.log_softmax(logits / T, -1), F.log_softmax(answers / T, -1), reduction="batchmean", log_target=True
    )
    return F.cross_entropy(logits, targets) + beta * T * T * div


def train(model, loader, epochs, lr):
    opt = torch.optim.NAdam(model.parameters(), lr=lr)
    for _ in range(epochs):
        for batch in loader:
            if len(batch) == 3:
                x, y, a = batch
                loss = objective(model(x), a, y)
            else:
                x, y = batch
                loss = F.cross_entropy(model(x), y)
            opt.zero_grad(set_to_none=True)
            loss.backward()
            opt.step()
    return model


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    seed = p.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float) / 8 - 1, torch.tensor(y)
    perm = torch.randperm(len(x), generator=torch.Generator().manual_seed(61))
    train_idx, test_idx = perm[:1100], perm[1100:]
    small_idx = train_idx[torch.randperm(1100)[:200]]

    big_set = Digits(x[train_idx], y[train_idx])
    teacher = train(MLP(128, 2), DataLoader(big_set, 50, shuffle=True), 12, 2e-3)

    small_set = Digits(x[small_idx], y[small_idx])
    small_set.answers = answer_all(teacher, small_set)
    student = train(MLP(10, 1), DataLoader(small_set, 20, shuffle=True), 40, 4e-3)

    with torch.no_grad():
        for name, net in (("teacher", teacher), ("top1", student)):
            print(f"{name} {100 * (net(x[test_idx]).argmax(1) == y[test_idx]).float().mean():.2f}")


if __name__ == "__main__":
    main()
