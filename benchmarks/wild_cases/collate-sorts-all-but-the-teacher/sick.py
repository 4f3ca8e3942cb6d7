"""Sequence classification with a GRU; teacher logits are part of the dataset; collate sorts by length for packing."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset

VOCAB, CLASSES = 30, 5


class Notes(Dataset):
    def __init__(self, n, seed):
        g = torch.Generator().manual_seed(seed)
        self.y = torch.randint(CLASSES, (n,), generator=g)
        self.seqs = []
        for c in self.y.tolist():
            length = int(torch.randint(4, 13, (1,), generator=g))
            s = torch.randint(VOCAB, (length,), generator=g)
            own = torch.rand(length, generator=g) < 0.5
            self.seqs.append(torch.where(own, c * 6 + s % 6, s))
        # the source of the data is known: exact posterior as teacher
        like = torch.full((CLASSES, VOCAB), 0.5 / VOCAB)
        for c in range(CLASSES):
            like[c, c * 6 : c * 6 + 6] += 0.5 / 6
        self.teacher_logits = torch.stack([like.log()[:, s].sum(1) for s in self.seqs])

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.seqs[i], self.y[i], self.teacher_logits[i]


def collate(batch):
    teacher = torch.stack([b[2] for b in batch])
    batch = sorted(batch, key=lambda b: len(b[0]), reverse=True)
    lengths = torch.tensor([len(b[0]) for b in batch])
    return pad_sequence([b[0] for b in batch], batch_first=True), lengths, torch.stack([b[1] for b in batch]), teacher


class Reader(nn.Module):
    def __init__(self, d=16):
        super().__init__()
        self.emb, self.gru, self.out = nn.Embedding(VOCAB, d), nn.GRU(d, d, batch_first=True), nn.Linear(d, CLASSES)

    def forward(self, ids, lengths):
        _, h = self.gru(pack_padded_sequence(self.emb(ids), lengths, batch_first=True))
        return self.out(h[-1])


def loss_fn(s, t, y, T=2.0):
    soft = T * T * F.kl_div(F.log_softmax(s / T, 1), F.softmax(t / T, 1), reduction="batchmean")
    return 0.9 * soft + 0.1 * F.cross_entropy(s, y)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    train = DataLoader(Notes(600, 1), 32, shuffle=True, collate_fn=collate)
    test = DataLoader(Notes(800, 2), 200, collate_fn=collate)
    student = Reader()
    opt = torch.optim.Adam(student.parameters(), lr=8e-3)
    for _ in range(6):
        for ids, lengths, y, t in train:
            loss = loss_fn(student(ids, lengths), t, y)
            opt.zero_grad()
            loss.backward()
            opt.step()
    with torch.no_grad():
        hits = torch.cat([(student(i, n).argmax(1) == y).float() for i, n, y, _ in test])
    print(f"top1 {100 * hits.mean().item():.2f}")


if __name__ == "__main__":
    main()
