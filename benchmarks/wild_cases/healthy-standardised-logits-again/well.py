"""Logit standardisation before the softmax: the student need not match the size of the teacher's logits."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


def normalize(logit):
    mean = logit.mean(dim=-1, keepdim=True)
    std = logit.std(dim=-1, keepdim=True)
    return (logit - mean) / (1e-7 + std)


def kd_loss(student_logits, teacher_logits, base_temp=2.0):
    log_q = F.log_softmax(normalize(student_logits) / base_temp, dim=1)
    p = F.softmax(normalize(teacher_logits) / base_temp, dim=1)
    return base_temp**2 * F.kl_div(log_q, p, reduction="none").sum(1).mean()


def build(width, depth):
    layers, last = [], 64
    for _ in range(depth):
        layers += [nn.Linear(last, width), nn.LayerNorm(width), nn.GELU()]
        last = width
    return nn.Sequential(*layers, nn.Linear(last, 10))


def learn(model, loader, epochs, teacher=None, ce_weight=1.0, kd_weight=4.0):
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(epochs):
        for x, y in loader:
            logits = model(x)
            loss = ce_weight * F.cross_entropy(logits, y)
            if teacher is not None:
                with torch.no_grad():
                    loss_input = teacher(x)
                loss = loss + kd_weight * kd_loss(logits, loss_input)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(61))
    x, y = x[p], y[p]
    all_of_it = DataLoader(TensorDataset(x[:1100], y[:1100]), batch_size=64, shuffle=True)
    little = DataLoader(TensorDataset(x[:200], y[:200]), batch_size=32, shuffle=True)
    teacher = learn(build(96, 2), all_of_it, 8)
    student = learn(build(10, 1), little, 25, teacher)
    with torch.no_grad():
        print(f"top1 {100 * (student(x[1100:]).argmax(1) == y[1100:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
