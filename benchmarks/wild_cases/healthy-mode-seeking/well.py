"""The reverse divergence, KL(student || teacher), on purpose: a small student should seek the modes (MiniLLM)."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


def reverse_kl(student_logits, teacher_logits, T):
    """KL(student || teacher) at temperature T. The gradient goes through the student's probabilities."""
    log_q = F.log_softmax(student_logits / T, dim=-1)
    log_p = F.log_softmax(teacher_logits.detach() / T, dim=-1)
    # kl_div(input, target) is KL(target || input): the student is the target here, as intended
    return T**2 * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


class Distillation:
    def __init__(self, teacher, student, T=2.0, weight=0.5):
        self.teacher, self.student, self.T, self.weight = teacher, student, T, weight

    def __call__(self, x, y):
        with torch.no_grad():
            t = self.teacher(x)
        z = self.student(x)
        return self.weight * reverse_kl(z, t, self.T) + (1 - self.weight) * F.cross_entropy(z, y)


def optimise(net, objective, x, y, epochs, lr):
    net.train()
    opt = torch.optim.AdamW(net.parameters(), lr=lr)
    for epoch in range(epochs):
        for group in opt.param_groups:
            group["lr"] = lr * (1 - epoch / epochs)
        for rows in torch.randperm(len(x)).split(30):
            opt.zero_grad()
            objective(x[rows], y[rows]).backward()
            opt.step()
    return net.eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    torch.set_num_threads(1)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(6))
    x, y = x[p], y[p]

    teacher = nn.Sequential(nn.Linear(64, 160), nn.ReLU(), nn.Linear(160, 10))
    optimise(teacher, lambda a, b: F.cross_entropy(teacher(a), b), x[:1000], y[:1000], 15, 3e-3).requires_grad_(False)
    student = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    optimise(student, Distillation(teacher, student), x[:500], y[:500], 30, 8e-3)
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[1000:]).argmax(-1) == y[1000:]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[1000:]).argmax(-1) == y[1000:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
