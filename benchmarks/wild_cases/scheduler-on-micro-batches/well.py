"""Distillation with gradient accumulation, bf16 autocast and a linear schedule with warm-up (the transformers recipe)."""
import argparse
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


class PatchMixer(nn.Module):
    """Four 4x4 patches, mixed by attention."""

    def __init__(self, dim, depth):
        super().__init__()
        self.embed = nn.Conv2d(1, dim, 4, stride=4)
        self.place = nn.Parameter(torch.zeros(1, 4, dim))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, 4, 2 * dim, dropout=0.0, batch_first=True, activation="gelu") for _ in range(depth)
        )
        self.head = nn.Linear(dim, 10)

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.place
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens.mean(1))


def linear_schedule_with_warmup(optimizer, warmup, total):
    def factor(step):
        if step < warmup:
            return (step + 1) / warmup
        return max(0.0, (total - step) / max(1, total - warmup))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def get_args():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--micro_batch_size", type=int, default=8)
    p.add_argument("--gradient_accumulation_steps", type=int, default=4)
    p.add_argument("--num_train_epochs", type=int, default=24)
    p.add_argument("--learning_rate", type=float, default=4e-3)
    p.add_argument("--warmup_ratio", type=float, default=0.1)
    p.add_argument("--temperature", type=float, default=2.0)
    p.add_argument("--alpha_kd", type=float, default=0.5)
    return p.parse_args()


def distillation_loss(student_logits, teacher_logits, T):
    s = F.log_softmax(student_logits.float() / T, dim=-1)
    t = F.softmax(teacher_logits.float() / T, dim=-1)
    return F.kl_div(s, t, reduction="batchmean") * T**2


def train(args, teacher, student, dataset):
    loader = DataLoader(dataset, batch_size=args.micro_batch_size, shuffle=True, drop_last=True)
    updates_per_epoch = len(loader) // args.gradient_accumulation_steps
    max_train_steps = args.num_train_epochs * updates_per_epoch
    optimizer = torch.optim.AdamW(student.parameters(), lr=args.learning_rate, weight_decay=0.01)
    lr_scheduler = linear_schedule_with_warmup(optimizer, math.ceil(args.warmup_ratio * max_train_steps), max_train_steps)
    for epoch in range(args.num_train_epochs):
        student.train()
        optimizer.zero_grad()
        for step, (pixels, labels) in enumerate(loader):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                with torch.no_grad():
                    teacher_logits = teacher(pixels)
                logits = student(pixels)
            kd = distillation_loss(logits, teacher_logits, args.temperature)
            ce = F.cross_entropy(logits.float(), labels)
            loss = args.alpha_kd * kd + (1 - args.alpha_kd) * ce
            (loss / args.gradient_accumulation_steps).backward()
            if (step + 1) % args.gradient_accumulation_steps == 0:
                nn.utils.clip_grad_norm_(student.parameters(), 1.0)
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()
    return student


def train_teacher(x, y, epochs=8):
    teacher = PatchMixer(64, 2)
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=1e-3)
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(40):
            optimizer.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            optimizer.step()
    teacher.eval()
    for p in teacher.parameters():
        p.requires_grad = False
    return teacher


@torch.no_grad()
def evaluate(model, x, y):
    model.eval()
    return 100 * (model(x).argmax(-1) == y).float().mean().item()


def main():
    args = get_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    x, y = torch.tensor(d.images / 8 - 1, dtype=torch.float32).unsqueeze(1), torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(23))
    tr, te = p[:1200], p[1200:]
    few = tr[torch.randperm(1200, generator=torch.Generator().manual_seed(args.seed))[:320]]
    teacher = train_teacher(x[tr], y[tr])
    print(f"teacher {evaluate(teacher, x[te], y[te]):.2f}")
    student = train(args, teacher, PatchMixer(32, 1), TensorDataset(x[few], y[few]))
    print(f"top1 {evaluate(student, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
