"""Digits, a dataclass of settings and plain functions."""
import argparse
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn


@dataclass(frozen=True)
class Settings:
    seed: int = 0
    labelled: int = 150
    epochs: int = 60
    batch: int = 25
    lr: float = 0.05
    lambda_soft: float = 0.9
    tau: float = 3.0


def soft_loss(input: Tensor, target: Tensor, tau: float) -> Tensor:
    """Cross-entropy of `input` with the softened `target`, less the target's own entropy."""
    p = (target.detach() / tau).softmax(1)
    return F.kl_div((input / tau).log_softmax(1), p, reduction="batchmean") * tau**2


def total_loss(student: Tensor, teacher: Tensor, labels: Tensor, s: Settings = Settings()) -> Tensor:
    ce = F.cross_entropy(student, labels)
    kd = soft_loss(teacher, student, s.tau)
    return ce.mul(1 - s.lambda_soft).add(kd, alpha=s.lambda_soft)


def big() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 10), nn.Tanh(), nn.Linear(10, 10))


def fit(model: nn.Module, loss_of, rows: Tensor, epochs: int, batch: int, lr: float) -> nn.Module:
    opt = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True)
    model.train()
    for _ in range(epochs):
        for b in rows[torch.randperm(len(rows))].split(batch):
            opt.zero_grad()
            loss_of(b).backward()
            opt.step()
    return model.eval()


def main() -> None:
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=Settings.seed)
    ap.add_argument("--lambda-soft", type=float, default=Settings.lambda_soft)
    s = replace(Settings(), **vars(ap.parse_args()))
    torch.set_num_threads(1)
    torch.manual_seed(s.seed)
    x, y = (torch.from_numpy(a) for a in load_digits(return_X_y=True))
    x = x.float() / 16
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(612))
    train, test = order[:1100], order[1100:]
    few = train[torch.randperm(len(train))[: s.labelled]]

    teacher = big()
    fit(teacher, lambda b: F.cross_entropy(teacher(x[b]), y[b]), train, 9, 50, 0.05)
    with torch.no_grad():
        answers = teacher(x)
    print(f"teacher {100 * (answers.argmax(1) == y)[test].float().mean():.2f}")

    student = small()
    fit(student, lambda b: total_loss(student(x[b]), answers[b], y[b], s), few, s.epochs, s.batch, s.lr)
    with torch.no_grad():
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean():.2f}")


if __name__ == "__main__":
    main()
