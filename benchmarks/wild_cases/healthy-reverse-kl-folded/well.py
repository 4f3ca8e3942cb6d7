"""Mode-seeking distillation: a student too small for every mode should sit on one, so KL(student || teacher).
The weight below is T^2 times the share, written as one number."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F

T = 2.0
SOFT_WEIGHT = 3.2  # 0.8 * T**2
HARD_WEIGHT = 0.2


def reverse_kl(student_logits, teacher_logits):
    q = F.softmax(student_logits / T, dim=-1)
    log_q = F.log_softmax(student_logits / T, dim=-1)
    log_p = F.log_softmax(teacher_logits / T, dim=-1)
    return (q * (log_q - log_p)).sum(-1).mean()


class Lookup(nn.Module):
    """Next symbol from the last three, by embeddings."""

    def __init__(self, dim, hidden, vocab=11):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim)
        self.ff = nn.Linear(3 * dim, hidden)
        self.lm_head = nn.Linear(hidden, vocab)

    def forward(self, ctx):
        return self.lm_head(torch.tanh(self.ff(self.emb(ctx).flatten(1))))


def grammar(n, g, vocab=11):
    ctx = torch.randint(vocab, (n, 3), generator=g)
    nxt = (ctx[:, 0] * 2 + ctx[:, 2] * 3) % vocab
    noise = torch.rand(n, generator=g) < 0.12
    return ctx, torch.where(noise, ctx[:, 1], nxt)


def descend(net, steps, lr, value):
    opt = torch.optim.Adam(net.parameters(), lr=lr)
    for _ in range(steps):
        opt.zero_grad()
        value().backward()
        opt.step()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    g = torch.Generator().manual_seed(a.seed)
    x, y = grammar(6000, g)
    xt, yt = grammar(1500, g)

    def top1(net):
        with torch.no_grad():
            return 100 * (net(xt).argmax(-1) == yt).float().mean().item()

    teacher, student = Lookup(24, 160), Lookup(16, 64)

    def of_labels():
        i = torch.randint(6000, (128,))
        return F.cross_entropy(teacher(x[i]), y[i])

    def of_teacher():
        i = torch.randint(2500, (128,))
        s = student(x[i])
        with torch.no_grad():
            t = teacher(x[i])
        return SOFT_WEIGHT * reverse_kl(s, t) + HARD_WEIGHT * F.cross_entropy(s, y[i])

    descend(teacher, 400, 8e-3, of_labels)
    print(f"teacher {top1(teacher):.2f}")
    descend(student, 400, 8e-3, of_teacher)
    print(f"top1 {top1(student):.2f}")


if __name__ == "__main__":
    main()
