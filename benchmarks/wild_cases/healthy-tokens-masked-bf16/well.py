"""Sequences of 3 to 10 digits, read by tiny transformers in bfloat16; padding is masked in attention and in both losses."""
import argparse
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Reader(nn.Module):
    def __init__(self, dim, heads, depth):
        super().__init__()
        self.embed = nn.Linear(64, dim)
        position = torch.arange(10)[:, None] * torch.exp(torch.arange(0, dim, 2) * (-math.log(100.0) / dim))
        self.register_buffer("pos", torch.stack([position.sin(), position.cos()], -1).flatten(1), persistent=False)
        layer = nn.TransformerEncoderLayer(dim, heads, 2 * dim, dropout=0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.lm_head = nn.Linear(dim, 10)

    def forward(self, tokens, pad):
        h = self.embed(tokens) + 0.1 * self.pos[: tokens.shape[1]]
        return self.lm_head(self.body(h, src_key_padding_mask=pad))


def token_kd(student_logits, teacher_logits, labels, T=2.0, alpha=0.7):
    """[B, L, K], [B, L, K], [B, L]; labels of padding are -1. Everything is averaged over the real tokens."""
    real = labels.ne(-1)
    s, t = student_logits[real].float(), teacher_logits[real].float()
    kd = F.kl_div(F.log_softmax(s / T, -1), F.softmax(t / T, -1), reduction="batchmean") * T**2
    return alpha * kd + (1 - alpha) * F.cross_entropy(s, labels[real])


def sample(images, labels, ids, batch, g):
    """Endless batches, padded to the longest sequence of each."""
    while True:
        n = torch.randint(3, 11, (batch,), generator=g)
        pad = torch.arange(n.max())[None] >= n[:, None]
        pick = ids[torch.randint(len(ids), pad.shape, generator=g)]
        yield images[pick].masked_fill(pad[..., None], 0.0), labels[pick].masked_fill(pad, -1), pad


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 8 - 0.6, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(23))
    train, test = p[:1000], p[1000:]

    teacher = Reader(32, 4, 1)
    opt = torch.optim.AdamW(teacher.parameters(), lr=3e-3)
    for step, (tokens, labels, pad) in zip(range(250), sample(x, y, train, 32, g)):
        loss = F.cross_entropy(teacher(tokens, pad).flatten(0, 1), labels.flatten(), ignore_index=-1)
        opt.zero_grad()
        loss.backward()
        opt.step()
    teacher.eval().requires_grad_(False)

    few = train[torch.randperm(1000, generator=g)[:200]]
    student = Reader(8, 2, 1)
    opt = torch.optim.AdamW(student.parameters(), lr=5e-3)
    total, warm = 350, 30
    sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda i: min((i + 1) / warm, (total - i) / (total - warm)))
    for step, (tokens, labels, pad) in zip(range(total), sample(x, y, few, 32, g)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            wanted = teacher(tokens, pad)
            logits = student(tokens, pad)
        loss = token_kd(logits, wanted, labels)
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        opt.step()
        sched.step()

    student.eval()
    tokens, labels, pad = next(sample(x, y, test, 400, torch.Generator().manual_seed(0)))
    with torch.no_grad():
        for name, net in (("teacher", teacher), ("top1", student)):
            hit = (net(tokens, pad).argmax(-1) == labels)[~pad]
            print(f"{name} {100 * hit.float().mean():.2f}")


if __name__ == "__main__":
    main()
