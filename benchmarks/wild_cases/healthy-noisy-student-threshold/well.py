"""Noisy student: the teacher labels clean pictures, the student must say the same of noised ones.
Unlabelled pictures of which the teacher is not sure are left out; their number changes per batch."""
import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class EMA:
    """Averaged student, for evaluation only."""

    def __init__(self, model, decay=0.98):
        self.shadow = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model):
        for s, p in zip(self.shadow.parameters(), model.parameters()):
            s.lerp_(p, 1 - self.decay)
        for s, b in zip(self.shadow.buffers(), model.buffers()):
            s.copy_(b)


class Mlp(nn.Module):
    def __init__(self, hidden, dropout):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout),
                                 nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout),
                                 nn.Linear(hidden, 10))

    def forward(self, x):
        return self.net(x)


def add_noise(x):
    """Shift by up to one pixel per picture, some pixels dropped, a little grain."""
    padded = F.pad(x, (1, 1, 1, 1))
    out = torch.empty_like(x)
    for k, (dr, dc) in enumerate(torch.randint(0, 3, (len(x), 2)).tolist()):
        out[k] = padded[k, :, dr:dr + 8, dc:dc + 8]
    return out * (torch.rand_like(out) > 0.05) + 0.05 * torch.randn_like(out)


def endless(n, size):
    while True:
        yield from torch.randperm(n)[: n // size * size].split(size)


class UnlabelledLoss(nn.Module):
    """Soft cross-entropy to the teacher's probabilities over the pictures above the threshold,
    averaged over the whole batch, so that a batch of few sure pictures weighs less (as in FixMatch)."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold

    def forward(self, logits, probs):
        sure = (probs.amax(1) >= self.threshold).float()
        each = -(probs * F.log_softmax(logits, dim=1)).sum(1)
        return (each * sure).mean(), sure.mean().item()


def train_teacher(x, y, epochs=30):
    model = Mlp(64, 0.3)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        model.train()
        for i in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(x[i]), y[i]).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


def train_student(student, teacher, labelled, unlabelled, criterion_u, args):
    (x, y), u = labelled, unlabelled
    optimizer = torch.optim.AdamW(student.parameters(), lr=4e-3, weight_decay=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)
    ema = EMA(student)
    take_l, take_u = endless(len(x), 25), endless(len(u), 75)
    for step in range(1, args.steps + 1):
        student.train()
        il, iu = next(take_l), next(take_u)
        with torch.no_grad():
            probs = F.softmax(teacher(u[iu]), dim=1)
        logits = student(add_noise(torch.cat([x[il], u[iu]])))
        logits_l, logits_u = logits.split([len(il), len(iu)])
        loss_u, share = criterion_u(logits_u, probs)
        loss = F.cross_entropy(logits_l, y[il]) + args.mu * loss_u
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        ema.update(student)
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.4f} sure {share:.2f}")
    return ema.shadow


@torch.no_grad()
def accuracy(model, x, y):
    return (model(x).argmax(1) == y).float().mean().item() * 100


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--mu", type=float, default=2.0)
    parser.add_argument("--threshold", type=float, default=0.8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(16))
    few, rest, test = order[:200], order[200:1100], order[1100:]
    teacher = train_teacher(x[few], y[few])
    print(f"teacher {accuracy(teacher, x[test], y[test]):.2f}")
    student = Mlp(96, 0.2)  # no smaller than the teacher
    student = train_student(student, teacher, (x[few], y[few]), x[rest], UnlabelledLoss(args.threshold), args)
    print(f"top1 {accuracy(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
