"""Multi-label: five properties of a digit, each its own sigmoid. Soft tags come from a wide network."""
import argparse
from dataclasses import dataclass, field

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

TAGS = {
    "even": {0, 2, 4, 6, 8},
    "prime": {2, 3, 5, 7},
    "large": {5, 6, 7, 8, 9},
    "loop": {0, 6, 8, 9},
    "third": {0, 3, 6, 9},
}


@dataclass
class Config:
    seed: int = 0
    temperature: float = 3.0
    soft_weight: float = 0.8
    labelled: int = 260
    epochs: int = 45
    batch: int = 26
    widths: tuple = field(default=(160, 10))


class Tagger(nn.Module):
    def __init__(self, width, dropout=0.0):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width), nn.GELU())
        self.tags = nn.Linear(width, len(TAGS))

    def forward(self, x):
        return self.tags(self.body(x))

    @torch.no_grad()
    def soft_tags(self, x, temperature=1.0):
        return torch.sigmoid(self(x) / temperature)


class TagLoss:
    """soft_weight of the softened tags, the rest of the true ones."""

    def __init__(self, cfg):
        self.cfg = cfg

    def soft(self, logits, soft_tags):
        tau = self.cfg.temperature
        return tau**2 * F.binary_cross_entropy_with_logits(logits, soft_tags)

    def __call__(self, logits, tags, soft_tags=None):
        hard = F.binary_cross_entropy_with_logits(logits, tags)
        if soft_tags is None:
            return hard
        w = self.cfg.soft_weight
        return (1 - w) * hard + w * self.soft(logits, soft_tags)


def load(cfg):
    x, digit = load_digits(return_X_y=True)
    x = torch.tensor(x, dtype=torch.float32) / 16
    tags = torch.tensor([[float(d in members) for members in TAGS.values()] for d in digit.tolist()])
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(404))
    few = p[:1100][torch.randperm(1100)[: cfg.labelled]]
    return (x[p[:1100]], tags[p[:1100]]), (x[few], tags[few]), (x[p[1100:]], tags[p[1100:]])


def optimise(model, x, tags, epochs, lr, criterion, cfg, guide=None):
    optimizer = torch.optim.NAdam(model.parameters(), lr=lr)
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(x)).split(cfg.batch):
            soft = guide.soft_tags(x[rows], cfg.temperature) if guide is not None else None
            loss = criterion(model(x[rows]), tags[rows], soft)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def all_right(model, x, tags):
    """share of the images with every tag right"""
    return 100 * ((model(x) > 0).float() == tags).all(1).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--soft-weight", type=float, default=0.8)
    given = parser.parse_args()
    cfg = Config(seed=given.seed, soft_weight=given.soft_weight)
    torch.set_num_threads(1)
    torch.manual_seed(cfg.seed)
    plenty, few, test = load(cfg)
    criterion = TagLoss(cfg)
    teacher = optimise(Tagger(cfg.widths[0], 0.2), *plenty, 14, 2e-3, criterion, cfg)
    student = optimise(Tagger(cfg.widths[1]), *few, cfg.epochs, 6e-3, criterion, cfg, guide=teacher)
    print(f"teacher {all_right(teacher, *test):.2f}")
    print(f"top1 {all_right(student, *test):.2f}")


if __name__ == "__main__":
    main()
