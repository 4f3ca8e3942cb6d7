"""Semi-supervised distillation: one row in four has a label, the others carry -1 and learn from the teacher alone."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset, Subset

UNKNOWN = -1


class PartlyLabelled(Dataset):
    def __init__(self, x, y, share, seed):
        keep = torch.rand(len(y), generator=torch.Generator().manual_seed(seed)) < share
        self.x, self.y = x, torch.where(keep, y, torch.full_like(y, UNKNOWN))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


class RowGRU(nn.Module):
    """Reads an image row by row."""

    def __init__(self, hidden):
        super().__init__()
        self.gru = nn.GRU(8, hidden, batch_first=True)
        self.out = nn.Linear(hidden, 10)

    def forward(self, x):
        states, _ = self.gru(x)
        return self.out(states.mean(1))


def objective(student_logits, teacher_logits, labels, tau=2.0, beta=0.6):
    known = labels != UNKNOWN
    # the mean over the labelled rows of this batch; 0 where there are none
    supervised = F.cross_entropy(student_logits, labels, ignore_index=UNKNOWN, reduction="sum") / known.sum().clamp(min=1)
    # every row has a teacher, labelled or not
    distilled = F.kl_div((student_logits / tau).log_softmax(-1), (teacher_logits / tau).softmax(-1), reduction="batchmean")
    return (1 - beta) * supervised + beta * tau**2 * distilled


def fit_teacher(x, y):
    teacher = RowGRU(64)
    optim = torch.optim.Adam(teacher.parameters(), lr=5e-3)
    for _ in range(20):
        for b in torch.randperm(len(x)).split(50):
            optim.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            nn.utils.clip_grad_norm_(teacher.parameters(), 1.0)
            optim.step()
    return teacher.eval().requires_grad_(False)


def distil(teacher, dataset, beta, epochs=20):
    student = RowGRU(16)
    optim = torch.optim.Adam(student.parameters(), lr=8e-3)
    for _ in range(epochs):
        student.train()
        for x, y in DataLoader(dataset, batch_size=40, shuffle=True):
            with torch.no_grad():
                answers = teacher(x)
            loss = objective(student(x), answers, y, beta=beta)
            optim.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optim.step()
    return student


def top1(model, x, y):
    model.eval()
    with torch.no_grad():
        return 100 * (model(x).argmax(-1) == y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--beta", type=float, default=0.6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    digits = load_digits()
    x, y = torch.tensor(digits.images / 16, dtype=torch.float32), torch.tensor(digits.target)
    perm = torch.randperm(len(x), generator=torch.Generator().manual_seed(8))
    train, test = perm[:1200], perm[1200:]
    teacher = fit_teacher(x[train], y[train])
    print(f"teacher {top1(teacher, x[test], y[test]):.2f}")
    rows = PartlyLabelled(x[train], y[train], 0.25, args.seed)
    student = distil(teacher, Subset(rows, range(800)), args.beta)
    print(f"top1 {top1(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
