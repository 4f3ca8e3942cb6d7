import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


def hard_term(student, teacher, labels):
    return F.cross_entropy(student, labels)


def soft_term(student, teacher, labels, T=3.0):
    return F.kl_div(F.log_softmax(student / T, 1), F.softmax(teacher / T, 1), reduction="batchmean") * T**2


TERMS = {"hard": (0.4, hard_term), "soft": (0.6, soft_term)}
history = {name: [] for name in TERMS}


def total_loss(student, teacher, labels):
    loss = 0.0
    for name, (weight, term) in TERMS.items():
        value = term(student, teacher, labels)
        history[name].append(value.item())
        loss = weight * value
    return loss


class Wide(nn.Module):
    def __init__(self, *sizes):
        super().__init__()
        self.fcs = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes, sizes[1:]))

    def forward(self, x):
        for fc in self.fcs[:-1]:
            x = F.hardswish(fc(x))
        return self.fcs[-1](x)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(35))
    train, test = p[:1200], p[1200:]
    teacher = Wide(64, 128, 128, 10)
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(12):
        for b in train[torch.randperm(1200)].split(60):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.eval()
    student = Wide(64, 12, 10)
    opt = torch.optim.Adagrad(student.parameters(), lr=0.05)
    few = train[torch.randperm(1200)[:200]]
    for _ in range(60):
        student.train()
        for b in few[torch.randperm(200)].split(20):
            with torch.no_grad():
                t = teacher(x[b])
            loss = total_loss(student(x[b]), t, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
