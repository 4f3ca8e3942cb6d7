"""Plain distillation of a residual network with functional layers."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class ResidualMLP(nn.Module):
    def __init__(self, width, depth, drop):
        super().__init__()
        self.drop = drop
        self.stem = nn.Linear(64, width)
        self.blocks = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(depth)])
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        h = F.relu(self.stem(x))
        for block, norm in zip(self.blocks, self.norms):
            h = h + F.dropout(F.relu(block(norm(h))), self.drop)
        return self.head(F.dropout(h, self.drop))


def loss_fn_kd(student_logits, labels, teacher_logits, T=4.0, alpha=0.9):
    p_s = F.log_softmax(student_logits / T, dim=1)
    p_t = F.softmax(teacher_logits / T, dim=1)
    loss_kd = F.kl_div(p_s, p_t, reduction="sum") * (T**2) / student_logits.shape[0]
    return alpha * loss_kd + (1.0 - alpha) * F.cross_entropy(student_logits, labels)


def train_teacher_epoch(model, x, y, optimizer):
    model.train()
    for idx in torch.randperm(len(x)).split(50):
        optimizer.zero_grad()
        F.cross_entropy(model(x[idx]), y[idx]).backward()
        optimizer.step()


def train_kd_epoch(model, teacher, x, y, optimizer, loss_fn):
    model.train()
    teacher.eval()
    for idx in torch.randperm(len(x)).split(25):
        with torch.no_grad():
            teacher_logits = teacher(x[idx])
        loss = loss_fn(model(x[idx]), y[idx], teacher_logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def validate(model, x, y):
    model.eval()
    with torch.no_grad():
        return (model(x).argmax(dim=1) == y).float().mean().item() * 100


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=25)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    data = load_digits()
    x, y = torch.tensor(data.data / 16.0).float(), torch.tensor(data.target).long()
    perm = torch.randperm(len(x), generator=torch.Generator().manual_seed(404))
    x, y = x[perm], y[perm]

    teacher = ResidualMLP(96, 3, drop=0.4)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(15):
        train_teacher_epoch(teacher, x[:1000], y[:1000], optimizer)
    teacher.requires_grad_(False)
    print(f"teacher {validate(teacher, x[1000:], y[1000:]):.2f}")

    student = ResidualMLP(12, 1, drop=0.0)
    optimizer = torch.optim.Adam(student.parameters(), lr=8e-3)
    for epoch in range(args.epochs):
        train_kd_epoch(student, teacher, x[:250], y[:250], optimizer, loss_fn_kd)
    print(f"top1 {validate(student, x[1000:], y[1000:]):.2f}")


if __name__ == "__main__":
    main()
