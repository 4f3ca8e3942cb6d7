"""Epochs come out of a generator; the caller validates after each and keeps the best."""
import argparse
import copy

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler, TensorDataset


def conv_net(width, dropout):
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Conv2d(1, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.Flatten(), nn.Dropout(dropout), nn.Linear(8 * width, 10),
    )


def epochs(model, loader, optimizer, count, criterion):
    for number in range(count):
        model.train()
        seen = total = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(model(x), x, y)
            loss.backward()
            optimizer.step()
            seen, total = seen + len(x), total + loss.item() * len(x)
        yield number, total / seen


@torch.no_grad()
def validate(model, loader):
    model.eval()
    right = count = 0
    for x, y in loader:
        right += (model(x).argmax(1) == y).sum().item()
        count += len(y)
    return 100 * right / count


def distillation_criterion(teacher, T, alpha):
    teacher.eval()

    def criterion(z, x, y):
        with torch.no_grad():
            t = teacher(x)
        kd = F.kl_div((z / T).log_softmax(1), (t / T).softmax(1), reduction="batchmean")
        return alpha * T * T * kd + (1 - alpha) * F.cross_entropy(z, y)

    return criterion


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--alpha", type=float, default=0.8)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(910))
    train = TensorDataset(x[p[:1000]], y[p[:1000]])
    valid = DataLoader(TensorDataset(x[p[1000:1200]], y[p[1000:1200]]), batch_size=8)
    test = DataLoader(TensorDataset(x[p[1200:]], y[p[1200:]]), batch_size=8)

    teacher = conv_net(12, 0.2)
    plain = lambda z, _, labels: F.cross_entropy(z, labels)
    adam = torch.optim.Adam(teacher.parameters(), lr=5e-3)
    for _ in epochs(teacher, DataLoader(train, batch_size=50, shuffle=True), adam, 7, plain):
        pass
    teacher.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[p[1200:]]).argmax(1) == y[p[1200:]]).float().mean():.2f}")

    student = conv_net(4, 0.2)
    loader = DataLoader(train, batch_size=50, sampler=RandomSampler(train, num_samples=500))
    adam = torch.optim.Adam(student.parameters(), lr=5e-3)
    best, kept = -1.0, None
    for number, loss in epochs(student, loader, adam, 12, distillation_criterion(teacher, 4.0, args.alpha)):
        score = validate(student, valid)
        if score > best:
            best, kept = score, copy.deepcopy(student.state_dict())
    student.load_state_dict(kept)
    print(f"best on validation {best:.2f}")
    print(f"top1 {validate(student, test):.2f}")


if __name__ == "__main__":
    main()
