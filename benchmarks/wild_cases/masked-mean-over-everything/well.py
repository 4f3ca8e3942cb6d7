"""Tagging: every token of a sentence gets one of six tags. A GRU teaches a smaller GRU; batches are padded dicts."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader

VOCAB, TAGS = 40, 6


def grammar(seed=2):
    g = torch.Generator().manual_seed(seed)
    trans = torch.softmax(1.5 * torch.randn(TAGS, TAGS, generator=g), 1)
    emit = torch.softmax(3.0 * torch.randn(TAGS, VOCAB, generator=g), 1)
    return trans, emit


def sentences(count, seed):
    trans, emit = grammar()
    g = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(count):
        n = int(torch.randint(3, 25, (1,), generator=g))
        tag, tags = 0, []
        for _ in range(n):
            tag = int(torch.multinomial(trans[tag], 1, generator=g))
            tags.append(tag)
        words = torch.multinomial(emit[tags], 1, generator=g).squeeze(1) + 1
        out.append({"words": words, "tags": torch.tensor(tags)})
    return out


def pad(batch):
    words = nn.utils.rnn.pad_sequence([b["words"] for b in batch], batch_first=True)
    tags = nn.utils.rnn.pad_sequence([b["tags"] for b in batch], batch_first=True, padding_value=-100)
    return {"words": words, "tags": tags}


class Tagger(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.emb = nn.Embedding(VOCAB + 1, dim, padding_idx=0)
        self.rnn = nn.GRU(dim, dim, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * dim, TAGS)

    def forward(self, words):
        packed = nn.utils.rnn.pack_padded_sequence(
            self.emb(words), (words != 0).sum(1), batch_first=True, enforce_sorted=False
        )
        h, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=words.shape[1])
        return self.out(h)


def tagging_kd(student_logits, teacher_logits, labels, tau=2.0, lam=0.9):
    """[B, L, K], [B, L, K], [B, L]; -100 marks padding"""
    hard = F.cross_entropy(student_logits.transpose(1, 2), labels, ignore_index=-100)
    mask = (labels != -100).float()
    logp = F.log_softmax(student_logits / tau, dim=2)
    q = F.softmax(teacher_logits / tau, dim=2)
    kl = F.kl_div(logp, q, reduction="none").sum(dim=2)
    soft = (kl * mask).sum() / mask.sum()
    return (1 - lam) * hard + lam * tau**2 * soft


def fit(model, rows, epochs, lr, teacher=None):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    loader = DataLoader(rows, batch_size=20, shuffle=True, collate_fn=pad)
    for _ in range(epochs):
        model.train()
        for batch in loader:
            logits = model(batch["words"])
            if teacher is None:
                loss = F.cross_entropy(logits.flatten(0, 1), batch["tags"].flatten())
            else:
                with torch.no_grad():
                    t = teacher(batch["words"])
                loss = tagging_kd(logits, t, batch["tags"])
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            opt.step()
    return model.eval()


@torch.no_grad()
def tag_accuracy(model, rows):
    hit = n = 0
    for batch in DataLoader(rows, batch_size=100, collate_fn=pad):
        keep = batch["tags"] != -100
        hit += (model(batch["words"]).argmax(2) == batch["tags"])[keep].sum().item()
        n += keep.sum().item()
    return 100 * hit / n


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    rows, test = sentences(600, 100), sentences(200, 101)
    torch.manual_seed(args.seed)
    teacher = fit(Tagger(32), rows, 5, 5e-3)
    print(f"teacher {tag_accuracy(teacher, test):.2f}")
    student = fit(Tagger(6), rows[:100], 15, 1e-2, teacher)
    print(f"top1 {tag_accuracy(student, test):.2f}")


if __name__ == "__main__":
    main()
