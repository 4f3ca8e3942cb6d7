"""A small regressor learns from a large one; measured on a held-out set."""
import argparse

import torch
import torch.nn as nn


def target_fn(x):
    return torch.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] - 0.5 * x[:, 3].abs()


class Regressor(nn.Module):
    def __init__(self, width, squeeze):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))
        self.squeeze = squeeze

    def forward(self, x):
        out = self.net(x)
        return out.squeeze(-1) if self.squeeze else out


def charbonnier(a, b, eps=1e-3):
    return torch.sqrt((a - b) ** 2 + eps**2).mean()


def distill_loss(student_out, teacher_out, y, mu=0.8):
    soft = charbonnier(student_out, teacher_out)
    return mu * soft + (1 - mu) * charbonnier(student_out, y)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x = torch.randn(5000, 6)
    y = target_fn(x)
    vx = torch.randn(2000, 6)
    vy = target_fn(vx)
    teacher = Regressor(128, squeeze=False)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(800):
        b = torch.randint(5000, (128,))
        opt.zero_grad()
        charbonnier(teacher(x[b]).squeeze(-1), y[b]).backward()
        opt.step()
    teacher.eval().requires_grad_(False)

    student = Regressor(24, squeeze=True)
    noisy = y + 0.5 * torch.randn(5000)
    opt = torch.optim.AdamW(student.parameters(), lr=4e-3)
    for _ in range(600):
        b = torch.randint(5000, (64,))
        loss = distill_loss(student(x[b]), teacher(x[b]), noisy[b])
        opt.zero_grad()
        loss.backward()
        opt.step()

    def within(pred):
        return 100 * ((pred.reshape(-1) - vy).abs() < 0.3).float().mean().item()

    with torch.no_grad():
        print(f"teacher {within(teacher(vx)):.2f}")
        print(f"top1 {within(student(vx)):.2f}")  # share within 0.3 of the truth


if __name__ == "__main__":
    main()
