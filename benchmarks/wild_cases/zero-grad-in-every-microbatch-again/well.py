"""Reverse-distillation-like set-up: a projection of the teacher's features and a student, each with its own optimizer;
micro-batches of 4, a step every 8 of them."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

ACCUMULATION_STEPS = 8


class Encoder(nn.Module):
    def __init__(self, width, dim):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.embed = nn.Linear(width * 16, dim)
        self.fc = nn.Linear(dim, 10)

    def forward(self, x):
        z = self.embed(F.max_pool2d(F.relu(self.conv(x)), 2).flatten(1))
        return self.fc(F.relu(z)), z


def train_student(student, proj, teacher, x, y, epochs, beta=1.0, lr=0.01):
    optimizer_distill = torch.optim.Adam(student.parameters(), lr=lr, betas=(0.5, 0.999))
    optimizer_proj = torch.optim.Adam(proj.parameters(), lr=lr, betas=(0.5, 0.999))
    student.train()
    proj.train()
    for epoch in range(epochs):
        for i, rows in enumerate(torch.randperm(len(x)).split(4)):
            with torch.no_grad():
                logits_t, z_t = teacher(x[rows])
            logits, z = student(x[rows])
            loss = F.cross_entropy(logits, y[rows])
            loss = loss + beta * (1 - F.cosine_similarity(proj(z), z_t)).mean()
            loss = loss + 4 * F.kl_div(F.log_softmax(logits / 2, 1), F.softmax(logits_t / 2, 1), reduction="batchmean")
            loss = loss / ACCUMULATION_STEPS
            loss.backward()
            if (i + 1) % ACCUMULATION_STEPS == 0:
                optimizer_proj.step()
                optimizer_distill.step()
                optimizer_proj.zero_grad()
                optimizer_distill.zero_grad()


def pretrain(teacher, x, y, epochs):
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(32):
            opt.zero_grad()
            F.cross_entropy(teacher(x[rows])[0], y[rows]).backward()
            opt.step()
    teacher.eval().requires_grad_(False)


def test(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x)[0].argmax(1) == y).float().mean().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(8))
    x, y = x[order], y[order]
    teacher, student, proj = Encoder(24, 64), Encoder(4, 16), nn.Linear(16, 64)
    pretrain(teacher, x[:1100], y[:1100], 6)
    print(f"teacher {test(teacher, x[1100:], y[1100:]):.2f}")
    train_student(student, proj, teacher, x[:256], y[:256], epochs=14)
    print(f"top1 {test(student, x[1100:], y[1100:]):.2f}")
