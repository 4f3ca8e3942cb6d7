"""Reverse KL per position of a sequence, padding masked."""
import argparse
from typing import NamedTuple

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn


class Output(NamedTuple):
    logits: Tensor


def reverse_kl(logits, teacher_logits, mask):
    """KL(q || p), q the student: the mean over the positions where mask is 1."""
    log_q = F.log_softmax(logits, dim=-1)
    log_p = F.log_softmax(teacher_logits, dim=-1)
    per_position = (log_q.exp() * (log_q - log_p)).sum(-1)
    return (per_position * mask).sum() / mask.sum()


class Tagger(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.embed = nn.Linear(64, dim)
        self.attn = nn.MultiheadAttention(dim, 2, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, 10)

    def forward(self, x, attention_mask):
        h = F.relu(self.embed(x))
        a, _ = self.attn(h, h, h, key_padding_mask=attention_mask == 0, need_weights=False)
        return Output(self.out(self.norm(h + a)))


def make_batch(x, y, count, generator, length=6):
    rows = torch.randint(len(x), (count, length), generator=generator)
    sizes = torch.randint(2, length + 1, (count, 1), generator=generator)
    mask = (torch.arange(length)[None] < sizes).long()
    return x[rows] * mask[..., None], mask, y[rows].masked_fill(mask == 0, -100)


def optimise(model, x, y, steps, lr, generator, teacher=None, beta=0.5):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(steps):
        inputs, mask, labels = make_batch(x, y, 16, generator)
        logits = model(inputs, attention_mask=mask).logits
        loss = F.cross_entropy(logits.view(-1, 10), labels.view(-1))
        if teacher is not None:
            with torch.no_grad():
                t = teacher(inputs, attention_mask=mask).logits
            loss = (1 - beta) * loss + beta * reverse_kl(logits, t, mask)
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        opt.step()
    return model.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(502))
    g = torch.Generator().manual_seed(seed)
    teacher = optimise(Tagger(64), x[p[:1200]], y[p[:1200]], 300, 2e-3, g)
    student = optimise(Tagger(12), x[p[:300]], y[p[:300]], 450, 4e-3, g, teacher)
    inputs, mask, labels = make_batch(x[p[1200:]], y[p[1200:]], 250, torch.Generator().manual_seed(2))
    valid = labels != -100
    with torch.no_grad():
        hits = student(inputs, attention_mask=mask).logits.argmax(-1)[valid] == labels[valid]
    print(f"top1 {100 * hits.float().mean().item():.2f}")


if __name__ == "__main__":
    main()
