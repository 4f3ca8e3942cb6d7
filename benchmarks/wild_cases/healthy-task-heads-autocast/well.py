"""Several heads on one trunk, each with its own KD term; bfloat16 autocast for the forward passes, losses in float32; settings in YAML-like text."""
import argparse
from dataclasses import dataclass, fields

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

SETTINGS = """
epochs: 18
teacher_epochs: 10
batch_size: 64
lr: 0.004
temperature: 3.0
soft_weight: 0.5
"""


@dataclass
class Settings:
    epochs: int = 10
    teacher_epochs: int = 10
    batch_size: int = 64
    lr: float = 1e-3
    temperature: float = 4.0
    soft_weight: float = 0.5

    @classmethod
    def parse(cls, text):
        kinds = {f.name: f.type if isinstance(f.type, type) else {"int": int, "float": float}[f.type] for f in fields(cls)}
        pairs = (line.split(":") for line in text.strip().splitlines())
        return cls(**{k.strip(): kinds[k.strip()](v.strip()) for k, v in pairs})


TASKS = {"digit": 10, "parity": 2, "third": 3}
TASK_WEIGHTS = {"digit": 1.0, "parity": 0.5, "third": 0.5}


def make_targets(digit):
    return {"digit": digit, "parity": digit % 2, "third": (digit // 4).clamp(max=2)}


class MultiHead(nn.Module):
    def __init__(self, hidden, depth):
        super().__init__()
        layers, width = [], 64
        for _ in range(depth):
            layers += [nn.Linear(width, hidden), nn.ReLU()]
            width = hidden
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in TASKS.items()})

    def forward(self, x):
        h = self.trunk(x)
        return {name: head(h) for name, head in self.heads.items()}


def head_loss(student_logits, teacher_logits, labels, temperature=3.0, soft_weight=0.5):
    student_logits, teacher_logits = student_logits.float(), teacher_logits.float()
    hard = F.cross_entropy(student_logits, labels)
    soft = F.kl_div(F.log_softmax(student_logits / temperature, dim=1), F.softmax(teacher_logits / temperature, dim=1),
                    reduction="batchmean") * temperature ** 2
    return (1 - soft_weight) * hard + soft_weight * soft


def batches(n, size):
    return torch.randperm(n).split(size)


def train_teacher(model, x, targets, cfg):
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(cfg.teacher_epochs):
        for rows in batches(len(x), cfg.batch_size):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                out = model(x[rows])
            loss = sum(TASK_WEIGHTS[k] * F.cross_entropy(out[k].float(), targets[k][rows]) for k in TASKS)
            loss.backward()
            optimizer.step()
    model.eval()


def distill(teacher, student, x, targets, cfg):
    optimizer = torch.optim.Adam(student.parameters(), lr=cfg.lr)
    for p in teacher.parameters():
        p.requires_grad_(False)
    for epoch in range(cfg.epochs):
        student.train()
        teacher.eval()
        sums = {k: 0.0 for k in TASKS}
        for rows in batches(len(x), cfg.batch_size):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                with torch.no_grad():
                    wanted = teacher(x[rows])
                out = student(x[rows])
            losses = {k: head_loss(out[k], wanted[k], targets[k][rows], cfg.temperature, cfg.soft_weight) for k in TASKS}
            loss = sum(TASK_WEIGHTS[k] * losses[k] for k in TASKS)
            loss.backward()
            optimizer.step()
            for k in TASKS:
                sums[k] += losses[k].item() * len(rows)
        print(f"epoch {epoch + 1:2d} " + " ".join(f"{k} {v / len(x):.4f}" for k, v in sums.items()))


@torch.no_grad()
def evaluate(model, x, targets):
    model.eval()
    out = model(x)
    return {k: 100 * (out[k].argmax(1) == targets[k]).float().mean().item() for k in TASKS}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    cfg = Settings.parse(SETTINGS)
    x, y = load_digits(return_X_y=True)
    x, y = (torch.tensor(x, dtype=torch.float32) - 5) / 6, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(33))
    train, test = p[:1344], p[1344:]

    teacher, student = MultiHead(128, 2), MultiHead(24, 1)
    train_teacher(teacher, x[train], make_targets(y[train]), cfg)
    print("teacher", evaluate(teacher, x[test], make_targets(y[test])))
    distill(teacher, student, x[train], make_targets(y[train]), cfg)
    result = evaluate(student, x[test], make_targets(y[test]))
    print("student", result)
    print(f"top1 {result['digit']:.2f}")


if __name__ == "__main__":
    main()
