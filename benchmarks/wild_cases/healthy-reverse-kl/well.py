"""Mode seeking on purpose: a small student cannot cover everything the teacher says, so KL(student || teacher) is used."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


def reverse_kl(student_logits, teacher_logits, temperature=2.0):
    """sum_k q_k (log q_k - log p_k), q of the student, p of the teacher"""
    log_q = F.log_softmax(student_logits / temperature, dim=-1)
    log_p = F.log_softmax(teacher_logits / temperature, dim=-1)
    return (log_q.exp() * (log_q - log_p)).sum(-1).mean() * temperature**2


class ModeSeekingLoss(nn.Module):
    def __init__(self, weight=0.7, temperature=2.0):
        super().__init__()
        self.weight, self.temperature = weight, temperature

    def forward(self, student_logits, teacher_logits, labels):
        rkl = reverse_kl(student_logits, teacher_logits, self.temperature)
        return self.weight * rkl + (1 - self.weight) * F.cross_entropy(student_logits, labels)


def reverse_kd(student_logits, teacher_logits, labels):
    return ModeSeekingLoss()(student_logits, teacher_logits, labels)


def net(c):
    return nn.Sequential(nn.Conv2d(1, c, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(c, 2 * c, 3), nn.ReLU(),
                         nn.Flatten(), nn.Linear(8 * c, 10))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    x, y = torch.tensor(d.images).float()[:, None] / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(301))
    train, few, test = (TensorDataset(x[i], y[i]) for i in (p[:1000], p[:250], p[1000:]))
    teacher = net(16)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(8):
        for xb, yb in DataLoader(train, 50, shuffle=True):
            opt.zero_grad()
            F.cross_entropy(teacher(xb), yb).backward()
            opt.step()
    teacher.eval().requires_grad_(False)
    student, criterion = net(6), ModeSeekingLoss()
    opt = torch.optim.Adam(student.parameters(), lr=5e-3)
    for _ in range(30):
        student.train()
        for xb, yb in DataLoader(few, 25, shuffle=True):
            loss = criterion(student(xb), teacher(xb), yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    xt, yt = test.tensors
    with torch.no_grad():
        print(f"teacher {100 * (teacher(xt).argmax(1) == yt).float().mean().item():.2f}")
        print(f"top1 {100 * (student(xt).argmax(1) == yt).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
