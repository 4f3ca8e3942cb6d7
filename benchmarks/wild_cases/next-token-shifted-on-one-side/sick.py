"""Next-token distillation between two small causal transformers on a second-order Markov source."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F

VOCAB, LENGTH = 16, 20


def sample(n, g):
    table = torch.Generator().manual_seed(77)
    rule = torch.randint(VOCAB, (VOCAB, VOCAB), generator=table)
    s = torch.randint(VOCAB, (n, LENGTH), generator=g)
    for i in range(2, LENGTH):
        keep = torch.rand(n, generator=g) < 0.9
        s[:, i] = torch.where(keep, rule[s[:, i - 2], s[:, i - 1]], s[:, i])
    return s


class CausalLM(nn.Module):
    """Embeds the last two tokens by position-aware mixing, then one causal layer."""

    def __init__(self, d):
        super().__init__()
        self.tok, self.prev = nn.Embedding(VOCAB, d), nn.Embedding(VOCAB + 1, d)
        self.pos = nn.Parameter(torch.zeros(LENGTH, d))
        self.layer = nn.TransformerEncoderLayer(d, 2, 4 * d, dropout=0.0, batch_first=True, norm_first=True)
        self.lm_head = nn.Linear(d, VOCAB)

    def forward(self, ids):
        prev = F.pad(ids[:, :-1], (1, 0), value=VOCAB)
        h = self.tok(ids) + self.prev(prev) + self.pos[: ids.size(1)]
        mask = nn.Transformer.generate_square_subsequent_mask(ids.size(1))
        return self.lm_head(self.layer(h, src_mask=mask, is_causal=True))


def lm_loss(logits, ids):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def distill_loss(student_logits, teacher_logits, ids, T=1.5, w=0.8):
    q = F.log_softmax(student_logits[:, :-1] / T, dim=-1).flatten(0, 1)
    p = F.softmax(teacher_logits[:, 1:] / T, dim=-1).flatten(0, 1)
    return w * T * T * F.kl_div(q, p, reduction="batchmean") + (1 - w) * lm_loss(student_logits, ids)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    g = torch.Generator().manual_seed(a.seed + 1)
    data, held = sample(1500, g), sample(300, g)

    def top1(m):
        m.eval()
        with torch.no_grad():
            return 100 * (m(held)[:, 1:-1].argmax(-1) == held[:, 2:]).float().mean().item()

    teacher = CausalLM(48)
    opt = torch.optim.Adam(teacher.parameters(), lr=4e-3)
    for _ in range(200):
        opt.zero_grad()
        ids = data[torch.randint(1500, (32,))]
        lm_loss(teacher(ids), ids).backward()
        opt.step()
    print(f"teacher {top1(teacher):.2f}")
    teacher.requires_grad_(False)
    student = CausalLM(24)
    opt = torch.optim.AdamW(student.parameters(), lr=6e-3)
    for _ in range(200):
        student.train()
        ids = data[torch.randint(1500, (24,))]
        loss = distill_loss(student(ids), teacher(ids), ids)
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        opt.step()
    print(f"top1 {top1(student):.2f}")


if __name__ == "__main__":
    main()
