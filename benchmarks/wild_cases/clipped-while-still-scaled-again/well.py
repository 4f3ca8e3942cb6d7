"""Distillation in half precision with a gradient scaler and clipping."""
import argparse
import contextlib

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.amp import GradScaler, autocast


class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.Linear(2 * d, d)

    def forward(self, h):
        return h + self.down(F.gelu(self.up(self.norm(h))))


def make(d, depth):
    return nn.Sequential(nn.Linear(64, d), *[Block(d) for _ in range(depth)], nn.LayerNorm(d), nn.Linear(d, 10))


class Engine:
    def __init__(self, model, lr, clip, half):
        self.model, self.clip = model, clip
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        self.scaler = GradScaler("cpu", init_scale=2.0**12, growth_interval=500, enabled=half)
        self.precision = (lambda: autocast("cpu", dtype=torch.bfloat16)) if half else contextlib.nullcontext

    def update(self, loss):
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()


def objective(z, answer, y, T, alpha):
    z, answer = z.float(), answer.float()
    kd = F.kl_div(F.log_softmax(z / T, 1), F.softmax(answer / T, 1), reduction="batchmean") * T * T
    return alpha * kd + (1 - alpha) * F.cross_entropy(z, y)


def run(args):
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 8 - 1, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(907))
    train, test = p[:1100], p[1100:]
    few = train[torch.randperm(1100)[:200]]

    teacher = make(64, 1)
    engine = Engine(teacher, lr=0.05, clip=5.0, half=False)
    for _ in range(10):
        for b in train[torch.randperm(1100)].split(64):
            engine.update(F.cross_entropy(teacher(x[b]), y[b]))
    teacher.eval().requires_grad_(False)
    print(f"teacher {100 * (teacher(x[test]).argmax(1) == y[test]).float().mean():.2f}")

    student = make(12, 1)
    engine = Engine(student, lr=0.03, clip=2.0, half=True)
    for _ in range(args.epochs):
        student.train()
        for b in few[torch.randperm(len(few))].split(25):
            with engine.precision():
                z = student(x[b])
                with torch.no_grad():
                    answer = teacher(x[b])
            engine.update(objective(z, answer, y[b], args.temperature, args.alpha))
    student.eval()
    with torch.no_grad():
        return 100 * (student(x[test]).argmax(1) == y[test]).float().mean().item()


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--epochs", type=int, default=40)
    ap.add_argument("--temperature", type=float, default=2.0)
    ap.add_argument("--alpha", type=float, default=0.7)
    print(f"top1 {run(ap.parse_args()):.2f}")
