"""Three teachers, averaged after the softmax."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Ensemble(nn.Module):
    def __init__(self, members):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x):
        return torch.stack([m(x) for m in self.members])  # [M, B, K]


def ensemble_kd(student_logits, member_logits, T=2.0):
    target = F.softmax(member_logits / T, dim=-1).mean(0)
    logq = F.log_softmax(student_logits / T, dim=-1)
    return F.kl_div(logq, target, reduction="batchmean") * (T * T)


def mlp(h):
    return nn.Sequential(nn.Linear(64, h), nn.ReLU(), nn.Linear(h, 10))


def supervised(model, x, y, steps=200):
    opt = torch.optim.Adam(model.parameters(), lr=4e-3)
    for _ in range(steps):
        b = torch.randint(len(x), (64,))
        opt.zero_grad()
        F.cross_entropy(model(x[b]), y[b]).backward()
        opt.step()
    return model


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(44))
    x, y = x[p], y[p]
    teacher = Ensemble([supervised(mlp(100), x[:1200], y[:1200]) for _ in range(3)])
    teacher.eval().requires_grad_(False)
    with torch.no_grad():
        vote = teacher(x[1200:]).softmax(-1).mean(0).argmax(-1)
    print(f"teacher {100 * (vote == y[1200:]).float().mean().item():.2f}")
    student = mlp(16)
    opt = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    for step in range(400):
        b = torch.randint(1200, (64,))
        few = torch.randint(60, (32,))
        with torch.inference_mode():
            members = teacher(x[b])
        loss = ensemble_kd(student(x[b]), members.clone()) + 0.2 * F.cross_entropy(student(x[few]), y[few])
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        print(f"top1 {100 * (student(x[1200:]).argmax(1) == y[1200:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
