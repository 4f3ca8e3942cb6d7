"""Tagging of padded sequences, [B, L, K]. The divergence is the reverse one, KL(student || teacher), chosen on purpose:
a student this small should pick one of the teacher's modes (MiniLLM), not cover them all."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F

SYMBOLS, TAGS, BLANK, NO_TAG = 20, 6, 0, -1


def sentences(count, seed, longest=14):
    """The tag of a symbol depends on its own kind and on that of its left neighbour."""
    rule = torch.Generator().manual_seed(21)
    kind = torch.randint(0, 5, (SYMBOLS,), generator=rule)
    table = torch.randint(0, TAGS, (5, 5), generator=rule)
    g = torch.Generator().manual_seed(seed)
    words = torch.randint(1, SYMBOLS, (count, longest), generator=g)
    left = torch.cat([torch.zeros(count, 1, dtype=torch.long), kind[words[:, :-1]]], 1)
    tags = table[left, kind[words]]
    noisy = torch.rand(count, longest, generator=g) < 0.08
    tags = torch.where(noisy, torch.randint(0, TAGS, (count, longest), generator=g), tags)
    off = torch.arange(longest) >= torch.randint(4, longest + 1, (count, 1), generator=g)
    return words.masked_fill(off, BLANK), tags.masked_fill(off, NO_TAG)


class ConvTagger(nn.Module):
    def __init__(self, dim, layers, dropout=0.0):
        super().__init__()
        self.embed = nn.Embedding(SYMBOLS, dim, padding_idx=BLANK)
        self.convs = nn.ModuleList(nn.Conv1d(dim, dim, 3, padding=1) for _ in range(layers))
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(dim, TAGS)

    def forward(self, words):
        h = self.embed(words).transpose(1, 2)
        for conv in self.convs:
            h = h + self.drop(F.gelu(conv(h)))
        return self.out(h.transpose(1, 2))


def reverse_kl(student, teacher, valid):
    """sum over tags of q log(q / p), q the student's; both at temperature 1"""
    log_q = student.log_softmax(-1)
    log_p = teacher.log_softmax(-1)
    # kl_div(input, target) is KL(target || input): here the student is the target, with its gradient
    kl = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    return (kl * valid).sum() / valid.sum()


def train(model, words, tags, epochs, lr, guide=None, share=0.6):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(words)).split(32):
            logits, valid = model(words[rows]), words[rows] != BLANK
            loss = F.cross_entropy(logits.transpose(1, 2), tags[rows], ignore_index=NO_TAG)
            if guide is not None:
                with torch.no_grad():
                    answer = guide(words[rows])
                loss = (1 - share) * loss + share * reverse_kl(logits, answer, valid.float())
            opt.zero_grad()
            loss.backward()
            opt.step()
    return model.eval()


@torch.no_grad()
def accuracy(model, words, tags):
    valid = tags != NO_TAG
    return 100 * (model(words).argmax(-1) == tags)[valid].float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--share", type=float, default=0.6)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    test = sentences(400, 3)
    teacher = train(ConvTagger(48, 2, 0.1), *sentences(1500, 1), 6, 4e-3)
    few = sentences(150, 30 + a.seed)
    student = train(ConvTagger(10, 1), *few, 40, 8e-3, teacher, a.share)
    print(f"teacher {accuracy(teacher, *test):.2f}")
    print(f"top1 {accuracy(student, *test):.2f}")


if __name__ == "__main__":
    main()
