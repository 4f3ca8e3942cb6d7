"""Two teachers, whose probabilities (not logits) are averaged; learning rate with warm restarts, set at each batch."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Ensemble(nn.Module):
    """Gives log-probabilities of the mean answer; a softmax over them gives the mean answer back."""

    def __init__(self, members):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x, T=1.0):
        return torch.stack([F.softmax(m(x) / T, dim=1) for m in self.members]).mean(0).log()


class KDCriterion(nn.Module):
    def __init__(self, T, alpha):
        super().__init__()
        self.T, self.alpha = T, alpha

    def forward(self, z, log_p, y):
        """log_p: the teachers' answer, already softened with T."""
        kd = F.kl_div(F.log_softmax(z / self.T, dim=1), log_p, reduction="batchmean", log_target=True)
        return self.alpha * self.T**2 * kd + (1 - self.alpha) * F.cross_entropy(z, y)


def make(hidden):
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--T", type=float, default=3.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(19))
    x, y = x[p], y[p]

    members = [make(100), make(150)]
    for member in members:
        optimizer = torch.optim.Adam(member.parameters(), lr=3e-3)
        for _ in range(12):
            for rows in torch.randperm(1000).split(50):
                optimizer.zero_grad()
                F.cross_entropy(member(x[rows]), y[rows]).backward()
                optimizer.step()
    teacher = Ensemble(members).eval().requires_grad_(False)
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[1000:]).argmax(1) == y[1000:]).float().mean().item():.2f}")

    student, criterion = make(12), KDCriterion(args.T, alpha=0.7)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    # cycles of 4, 8 and 16 epochs: training ends at the end of the third, where the rate is lowest
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=4, T_mult=2)
    student.train()
    for epoch in range(28):
        batches = torch.randperm(400).split(25)
        for i, rows in enumerate(batches):
            with torch.no_grad():
                log_p = teacher(x[rows], args.T)
            loss = criterion(student(x[rows]), log_p, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step(epoch + (i + 1) / len(batches))
    student.eval()
    with torch.no_grad():
        print(f"top1 {100 * (student(x[1000:]).argmax(1) == y[1000:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
