"""Two digits side by side, read as a sequence of two answers; the logits have the shape (batch, 2, 10)."""
import argparse
import warnings

import torch
import torch.nn as nn
from sklearn.datasets import load_digits

warnings.filterwarnings("ignore")


class PairReader(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.columns = nn.Sequential(nn.Conv1d(8, width, 5, padding=2), nn.ReLU())
        self.out = nn.Linear(8 * width, 10)

    def forward(self, images):  # (batch, 8, 16): the columns are the steps, eight for each digit
        h = self.columns(images)
        return self.out(h.unflatten(2, (2, 8)).transpose(1, 2).flatten(2))


class SequenceKD(nn.Module):
    def __init__(self, T, alpha):
        super().__init__()
        self.T, self.alpha = T, alpha
        self.log_softmax, self.softmax = nn.LogSoftmax(), nn.Softmax()
        self.kl = nn.KLDivLoss(reduction="none")
        self.ce = nn.CrossEntropyLoss()

    def forward(self, logits, teacher_logits, labels):
        soft = self.kl(self.log_softmax(logits / self.T), self.softmax(teacher_logits / self.T)).sum(-1).mean()
        hard = self.ce(logits.flatten(0, 1), labels.flatten())
        return self.alpha * self.T**2 * soft + (1 - self.alpha) * hard


class Pairs:
    """Draws images of two digits each, from the rows it was given."""

    def __init__(self, images, labels, batch):
        self.images, self.labels, self.batch = images, labels, batch

    def __iter__(self):
        n = len(self.images)
        left, right = torch.randperm(n), torch.randperm(n)
        for a, b in zip(left.split(self.batch), right.split(self.batch)):
            yield torch.cat([self.images[a], self.images[b]], 2), torch.stack([self.labels[a], self.labels[b]], 1)


def learn(model, pairs, epochs, lr, loss_of):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    model.train()
    for epoch in range(epochs):
        for x, y in pairs:
            loss = loss_of(model, x, y)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        scheduler.step()
    return model.eval()


@torch.no_grad()
def read_right(model, pairs):
    torch.manual_seed(0)
    right = torch.cat([(model(x).argmax(-1) == y).flatten() for x, y in pairs])
    return 100 * right.float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float) / 16, torch.tensor(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(2))
    images, labels = images[order], labels[order]
    many, few = Pairs(images[:1200], labels[:1200], 30), Pairs(images[:300], labels[:300], 30)
    test = Pairs(images[1200:], labels[1200:], 200)

    teacher = learn(PairReader(48), many, 10, 5e-3, lambda m, x, y: nn.functional.cross_entropy(m(x).transpose(1, 2), y))
    teacher.requires_grad_(False)
    print(f"teacher {read_right(teacher, test):.2f}")
    criterion = SequenceKD(T=4.0, alpha=0.9)
    torch.manual_seed(args.seed + 1)
    student = learn(PairReader(4), few, 30, 2e-2, lambda m, x, y: criterion(m(x), teacher(x), y))
    print(f"top1 {read_right(student, test):.2f}")


if __name__ == "__main__":
    main()
