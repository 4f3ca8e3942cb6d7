"""An encoder with gradient checkpointing, gradients gathered over four small batches, exponential average for the test."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint


class Encoder(nn.Module):
    def __init__(self, dim, depth, checkpointing=False):
        super().__init__()
        self.patch = nn.Linear(8, dim)
        self.pos = nn.Parameter(0.02 * torch.randn(1, 8, dim))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, 2, 2 * dim, 0.0, batch_first=True, norm_first=True) for _ in range(depth)
        )
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)
        self.checkpointing = checkpointing

    def forward(self, x):
        h = self.patch(x) + self.pos
        for layer in self.layers:
            if self.checkpointing and self.training:
                h = checkpoint(layer, h, use_reentrant=False)
            else:
                h = layer(h)
        return self.head(self.norm(h).mean(1))


def kd(student_logits, teacher_logits, labels, T=2.0, alpha=0.8):
    soft = F.kl_div((student_logits / T).log_softmax(-1), (teacher_logits / T).softmax(-1), reduction="batchmean")
    return alpha * T**2 * soft + (1 - alpha) * F.cross_entropy(student_logits, labels)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--accumulate", type=int, default=4)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    x, y = torch.tensor(d.images).float() / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(310))
    x, y = x[p], y[p]
    teacher = Encoder(24, 2)
    opt = torch.optim.AdamW(teacher.parameters(), lr=4e-3)
    for _ in range(10):
        for i in torch.randperm(1000).split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[i]), y[i]).backward()
            opt.step()
    teacher.eval()
    student = Encoder(12, 1, checkpointing=True)
    ema = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.95))
    opt = torch.optim.AdamW(student.parameters(), lr=8e-3)
    for _ in range(12):
        student.train()
        micro = torch.randperm(480).split(12)
        opt.zero_grad()
        for n, i in enumerate(micro, 1):
            with torch.no_grad():
                t = teacher(x[i])
            (kd(student(x[i]), t, y[i]) / args.accumulate).backward()
            if n % args.accumulate == 0:
                nn.utils.clip_grad_norm_(student.parameters(), 1.0)
                opt.step()
                opt.zero_grad()
                ema.update_parameters(student)
    ema.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[1000:]).argmax(1) == y[1000:]).float().mean().item():.2f}")
        print(f"top1 {100 * (ema(x[1000:]).argmax(1) == y[1000:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
