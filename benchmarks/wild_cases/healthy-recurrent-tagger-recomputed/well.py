"""Tagging synthetic sequences of several lengths; GRU teacher, smaller GRU student with activation recomputation."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

WORDS, TAGS, PAD = 30, 6, 0


def sentences(n, g):
    """A tag depends on the word and on the word before it."""
    length = torch.randint(4, 13, (n,), generator=g)
    words = torch.randint(1, WORDS, (n, 12), generator=g)
    before = torch.cat([torch.ones(n, 1, dtype=torch.long), words[:, :-1]], 1)
    tags = (words % 3) * 2 + (before % 2)
    out = torch.arange(12)[None] >= length[:, None]
    return words.masked_fill(out, PAD), tags.masked_fill(out, -100)


class Tagger(nn.Module):
    def __init__(self, dim, recompute=False):
        super().__init__()
        self.embed = nn.Embedding(WORDS, dim, padding_idx=PAD)
        self.gru = nn.GRU(dim, dim, batch_first=True)
        self.out = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, TAGS))
        self.recompute = recompute

    def forward(self, words):
        h, _ = self.gru(self.embed(words))
        if self.recompute and self.training:
            return checkpoint(self.out, h, use_reentrant=False)
        return self.out(h)


def kd_loss(s, t, tags, T=2.0, alpha=0.8):
    real = tags != -100
    s, t, tags = s[real], t[real], tags[real]
    soft = F.kl_div(F.log_softmax(s / T, -1), F.softmax(t / T, -1), reduction="sum") / len(tags)
    return alpha * T * T * soft + (1 - alpha) * F.cross_entropy(s, tags)


def train(model, words, tags, epochs, lr, teacher=None):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        for b in torch.randperm(len(words)).split(32):
            logits = model(words[b])
            if teacher is None:
                loss = F.cross_entropy(logits.flatten(0, 1), tags[b].flatten(), ignore_index=-100)
            else:
                with torch.no_grad():
                    t = teacher(words[b])
                loss = kd_loss(logits, t, tags[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    model.eval()


@torch.no_grad()
def top1(model, words, tags):
    real = tags != -100
    return 100 * (model(words).argmax(-1)[real] == tags[real]).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    g = torch.Generator().manual_seed(a.seed)
    big, small, test = sentences(1000, g), sentences(500, g), sentences(400, g)
    teacher = Tagger(32)
    train(teacher, *big, epochs=6, lr=1e-2)
    teacher.requires_grad_(False)
    print(f"teacher {top1(teacher, *test):.2f}")
    student = Tagger(10, recompute=True)
    train(student, *small, epochs=13, lr=2e-2, teacher=teacher)
    print(f"top1 {top1(student, *test):.2f}")


if __name__ == "__main__":
    main()
