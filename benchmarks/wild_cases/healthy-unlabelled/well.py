"""120 labelled images, 1080 without a label; the teacher answers for all."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset

NO_LABEL = -100


def semi_supervised(student_logits, teacher_logits, labels, tau=2.0, lam=1.0):
    known = labels != NO_LABEL
    kd = F.kl_div((student_logits / tau).log_softmax(1), (teacher_logits / tau).softmax(1), reduction="batchmean")
    loss = lam * tau**2 * kd
    if known.any():
        loss = loss + F.cross_entropy(student_logits[known], labels[known])
    return loss


class Conv(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, c, 4, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * c, 2 * c), nn.ReLU(), nn.Linear(2 * c, 10)
        )

    def forward(self, x):
        return self.net(x.unsqueeze(1))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    d = load_digits()
    x, y = torch.tensor(d.images, dtype=torch.float32) / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(509))
    train, test = p[:1200], p[1200:]
    labelled, rest = train[:120], train[120:]

    teacher = Conv(20)
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(14):
        for b in train[torch.randperm(1200)].split(60):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.eval()

    loader = DataLoader(
        ConcatDataset(
            [
                TensorDataset(x[labelled], y[labelled]),
                TensorDataset(x[rest], torch.full((len(rest),), NO_LABEL)),
            ]
        ),
        batch_size=60,
        shuffle=True,
    )
    student = Conv(4)
    opt = torch.optim.Adam(student.parameters(), lr=5e-3)
    student.train()
    for _ in range(30):
        for images, labels in loader:
            with torch.no_grad():
                t = teacher(images)
            loss = semi_supervised(student(images), t, labels)
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    with torch.no_grad():
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
