"""Decoupled distillation: target class against the rest, and the rest among themselves; eased in over the first epochs."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def kd_loss(student_logits, teacher_logits, labels, alpha=1.0, beta=4.0, temperature=4.0):
    T = temperature
    hit = F.one_hot(labels, student_logits.size(1)).bool()

    def binary(logits):
        log_p = F.log_softmax(logits / T, 1)
        target = log_p[hit]
        rest = log_p.masked_fill(hit, float("-inf")).logsumexp(1)
        return torch.stack([target, rest], 1)

    def others(logits):
        return F.log_softmax(logits[~hit].view(len(logits), -1) / T, 1)

    tckd = F.kl_div(binary(student_logits), binary(teacher_logits), reduction="batchmean", log_target=True)
    nckd = F.kl_div(others(student_logits), others(teacher_logits), reduction="batchmean", log_target=True)
    return T * T * (alpha * tckd + beta * nckd)


class Small(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(1, c, 3, padding=1)
        self.norm = nn.GroupNorm(2, c)
        self.fc = nn.Linear(16 * c, 10)

    def forward(self, x):
        return self.fc(F.max_pool2d(F.relu(self.norm(self.conv(x))), 2).flatten(1))


def fit(model, x, y, epochs, lr, teacher=None, warmup=6):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    model.train()
    for epoch in range(epochs):
        ease = min((epoch + 1) / warmup, 1.0)
        for i in torch.randperm(len(x)).split(32):
            logits = model(x[i])
            loss = F.cross_entropy(logits, y[i])
            if teacher is not None:
                with torch.no_grad():
                    teacher_logits = teacher(x[i])
                loss = loss + ease * kd_loss(logits, teacher_logits, y[i])
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
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(29))
    x, y = x[p], y[p]
    teacher = fit(Small(24), x[:1100], y[:1100], 6, 0.05)
    student = fit(Small(4), x[:200], y[:200], 20, 0.01, teacher)
    with torch.no_grad():
        print(f"top1 {100 * (student(x[1100:]).argmax(1) == y[1100:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
