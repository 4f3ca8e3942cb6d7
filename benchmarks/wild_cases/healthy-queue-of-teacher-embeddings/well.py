"""No labels: the student copies the teacher's similarities to a queue of earlier embeddings; then a linear probe."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Queue:
    def __init__(self, size, dim):
        self.rows = F.normalize(torch.randn(size, dim), dim=1)
        self.at = 0

    @torch.no_grad()
    def push(self, z):
        where = (self.at + torch.arange(len(z))) % len(self.rows)
        self.rows[where] = z
        self.at = (self.at + len(z)) % len(self.rows)


def encoder(hidden, dim=24):
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, dim))


def similarity_loss(zs, zt, queue, t_student=0.2, t_teacher=0.07):
    """Two temperatures on purpose: the teacher's is the sharper one."""
    bank = torch.cat([queue, zt])
    target = F.softmax(zt @ bank.t() / t_teacher, dim=1)
    return -(target * F.log_softmax(zs @ bank.t() / t_student, dim=1)).sum(1).mean()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x))
    tr, te = p[:1200], p[1200:]

    teacher, head = encoder(128), nn.Linear(24, 10)
    opt = torch.optim.Adam([*teacher.parameters(), *head.parameters()], lr=2e-3)
    for _ in range(8):
        for b in tr[torch.randperm(len(tr))].split(48):
            opt.zero_grad()
            F.cross_entropy(head(F.normalize(teacher(x[b]), dim=1) * 8), y[b]).backward()
            opt.step()
    teacher.eval().requires_grad_(False)

    student = encoder(16).train()
    opt = torch.optim.Adam(student.parameters(), lr=5e-3)
    queue = Queue(480, 24)
    for b in tr[torch.randperm(len(tr))[:480]].split(48):
        queue.push(F.normalize(teacher(x[b]), dim=1))
    for epoch in range(11):
        for b in tr[torch.randperm(len(tr))].split(48):
            noisy = x[b] + 0.05 * torch.randn(len(b), 64)
            with torch.no_grad():
                zt = F.normalize(teacher(noisy), dim=1)
            zs = F.normalize(student(noisy), dim=1)
            loss = similarity_loss(zs, zt, queue.rows)
            opt.zero_grad()
            loss.backward()
            opt.step()
            queue.push(zt)
    student.eval().requires_grad_(False)

    probe = nn.Linear(24, 10)
    opt = torch.optim.Adam(probe.parameters(), lr=0.02)
    few = tr[:300]
    for _ in range(20):
        for b in few[torch.randperm(len(few))].split(50):
            opt.zero_grad()
            F.cross_entropy(probe(F.normalize(student(x[b]), dim=1) * 8), y[b]).backward()
            opt.step()
    with torch.no_grad():
        out = probe(F.normalize(student(x[te]), dim=1) * 8)
        print(f"top1 {100 * (out.argmax(1) == y[te]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
