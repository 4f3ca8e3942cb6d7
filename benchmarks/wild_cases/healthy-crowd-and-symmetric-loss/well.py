"""Labels from a crowd of five, often wrong, kept as vote shares; a noise-robust loss; a teacher weighted by its confidence.

The hard term is symmetric cross-entropy (Wang et al., 2019) on the shares: its reverse part takes log of the target, at -4 where
nobody voted. The KD term's weight differs from row to row, and is divided by the rows, not by the weights' sum."""
import argparse
import math
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def crowd(y, g, voters=5, wrong=0.3):
    votes = torch.zeros(len(y), 10)
    for _ in range(voters):
        said = torch.where(torch.rand(len(y), generator=g) < wrong, torch.randint(0, 10, (len(y),), generator=g), y)
        votes += F.one_hot(said, 10)
    return votes / voters


class RobustDistillation(nn.Module):
    def __init__(self, T=2.0, a=1.0, b=0.3, kd=1.0):
        super().__init__()
        self.T, self.a, self.b, self.kd = T, a, b, kd

    def forward(self, student_logits, teacher_logits, shares):
        log_p = F.log_softmax(student_logits, 1)
        forward = -(shares * log_p).sum(1)
        reverse = -(log_p.exp() * shares.clamp_min(math.exp(-4)).log()).sum(1)
        t = F.log_softmax(teacher_logits, 1)
        sure = 1 + (t.exp() * t).sum(1) / math.log(10)  # 1 - entropy / its maximum
        kl = F.kl_div(F.log_softmax(student_logits / self.T, 1), F.softmax(teacher_logits / self.T, 1), reduction="none").sum(1)
        return (self.a * forward + self.b * reverse + self.kd * self.T ** 2 * sure.detach() * kl).mean()


def mlp(n, p):
    return nn.Sequential(nn.Linear(64, n), nn.BatchNorm1d(n), nn.ReLU(), nn.Dropout(p), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, 10))


def top1(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(90))
    tr, te = p[:1200], p[1200:]
    shares = crowd(y[tr], torch.Generator().manual_seed(seed + 1))
    x_tr = x[tr]

    teacher = mlp(200, 0.3)
    opt = torch.optim.AdamW(teacher.parameters(), 2e-3, weight_decay=0.05)
    for _ in range(20):
        teacher.train()
        for b in torch.randperm(len(x_tr)).split(50):
            loss = F.cross_entropy(teacher(x_tr[b]), shares[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"teacher {top1(teacher, x[te], y[te]):.2f}")
    teacher.eval().requires_grad_(False)

    student, criterion = mlp(32, 0.0), RobustDistillation()
    opt = torch.optim.AdamW(student.parameters(), 3e-3)
    for _ in range(30):
        student.train()
        for b in torch.randperm(len(x_tr)).split(50):
            with torch.no_grad():
                told = teacher(x_tr[b])
            loss = criterion(student(x_tr[b]), told, shares[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"top1 {top1(student, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
