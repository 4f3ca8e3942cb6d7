"""Embedding distillation: a token model's sentence vector should point where the teacher's points."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F


def corpus(n, g, table, length=10):
    y = torch.randint(len(table), (n,), generator=g)
    return torch.multinomial(table[y], length, replacement=True, generator=g), y


class SentenceEncoder(nn.Module):
    def __init__(self, vocab, dim, out_dim, classes):
        super().__init__()
        self.bag = nn.EmbeddingBag(vocab, dim, mode="mean")
        self.proj = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, out_dim))
        self.cls = nn.Linear(out_dim, classes)

    def encode(self, ids):
        return torch.tanh(self.proj(self.bag(ids)))

    def forward(self, ids):
        e = self.encode(ids)
        return self.cls(e), e


def loss_fn(s_logits, s_emb, t_emb, labels, beta=4.0):
    task = F.cross_entropy(s_logits, labels)
    align = F.cosine_similarity(s_emb, t_emb, dim=-1).mean()
    return task + beta * align


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--steps", type=int, default=500)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    g = torch.Generator().manual_seed(9)
    table = torch.softmax(1.0 * torch.randn(10, 300, generator=g), 1)
    ids, y = corpus(4000, g, table)
    ids_t, y_t = corpus(1500, g, table)

    teacher = SentenceEncoder(300, 64, 16, 10)
    opt = torch.optim.Adam(teacher.parameters(), lr=5e-3)
    for step in range(300):
        i = torch.randint(4000, (64,))
        opt.zero_grad()
        F.cross_entropy(teacher(ids[i])[0], y[i]).backward()
        opt.step()
    teacher.eval()
    for p in teacher.parameters():
        p.requires_grad_(False)

    student = SentenceEncoder(300, 16, 16, 10)
    opt = torch.optim.AdamW(student.parameters(), lr=1e-2, weight_decay=1e-3)
    warm = torch.optim.lr_scheduler.LinearLR(opt, 0.1, 1.0, total_iters=20)
    student.train()
    for step in range(args.steps):
        i = torch.randint(500, (50,))
        logits, emb = student(ids[i])
        loss = loss_fn(logits, emb, teacher.encode(ids[i]), y[i])
        opt.zero_grad()
        loss.backward()
        opt.step()
        warm.step()
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.3f}")

    student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(ids_t)[0].argmax(1) == y_t).float().mean().item():.2f}")
        print(f"top1 {100 * (student(ids_t)[0].argmax(1) == y_t).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
