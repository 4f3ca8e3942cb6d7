"""Temperature the way the LwF paper writes it: probabilities to the power 1/T, made to sum to 1 again."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def flattened(log_p, T):
    """log of p^(1/T) / sum(p^(1/T))"""
    log_p = log_p / T
    return log_p - torch.logsumexp(log_p, dim=-1, keepdim=True)


def kd_loss(student_logits, teacher_log_probs, T=3.0):
    q = flattened(F.log_softmax(student_logits, dim=-1), T)
    p = flattened(teacher_log_probs, T)
    return T**2 * F.kl_div(q, p, reduction="batchmean", log_target=True)


class Teacher(nn.Module):
    """Answers with log-probabilities, like a service that gives logprobs of every class."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10), nn.LogSoftmax(-1))

    def forward(self, x):
        return self.net(x)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--kd", type=float, default=0.75)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(33))
    rows, test = p[:1100], p[1100:]

    teacher = Teacher()
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(15):
        for b in rows[torch.randperm(len(rows))].split(50):
            opt.zero_grad()
            F.nll_loss(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.eval()

    few = rows[torch.randperm(len(rows))[:180]]
    student = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    opt = torch.optim.Adam(student.parameters(), lr=5e-3)
    student.train()
    for _ in range(50):
        for b in few[torch.randperm(len(few))].split(30):
            with torch.no_grad():
                said = teacher(x[b])
            logits = student(x[b])
            loss = a.kd * kd_loss(logits, said) + (1 - a.kd) * F.cross_entropy(logits, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
