"""Speech-like frame classification: a transformer teacher, a GRU student, padded utterances; both losses over the real frames only."""
import argparse
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

PHONES, FEATS, PAD = 6, 12, -1


class Utterances(Dataset):
    """Phones last a few frames; the feature is the phone's mean, smeared over time, with noise."""

    def __init__(self, n, generator, means):
        self.items = []
        for _ in range(n):
            length = int(torch.randint(20, 33, (1,), generator=generator))
            labels = torch.randint(PHONES, (length,), generator=generator)
            labels = labels[torch.arange(length) // 4]
            feats = means[labels]
            feats = 0.6 * feats + 0.4 * feats.roll(1, 0) + 1.0 * torch.randn(length, FEATS, generator=generator)
            self.items.append((feats, labels))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def collate(batch):
    feats, labels = zip(*batch)
    lengths = torch.tensor([len(l) for l in labels])
    return pad_sequence(feats, batch_first=True), pad_sequence(labels, batch_first=True, padding_value=PAD), lengths


def length_mask(lengths, total):
    return torch.arange(total)[None] < lengths[:, None]


class TransformerTeacher(nn.Module):
    def __init__(self, dim=48, heads=4, layers=2):
        super().__init__()
        self.inp = nn.Linear(FEATS, dim)
        position = torch.arange(40).float()[:, None]
        freq = torch.exp(torch.arange(0, dim, 2).float() * (-math.log(100.0) / dim))
        self.register_buffer("pe", torch.cat([torch.sin(position * freq), torch.cos(position * freq)], 1))
        self.attn = nn.ModuleList(nn.MultiheadAttention(dim, heads, batch_first=True) for _ in range(layers))
        self.norm1 = nn.ModuleList(nn.LayerNorm(dim) for _ in range(layers))
        self.ff = nn.ModuleList(nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Dropout(0.1),
                                              nn.Linear(2 * dim, dim)) for _ in range(layers))
        self.out = nn.Linear(dim, PHONES)

    def forward(self, feats, lengths):
        h = self.inp(feats) + self.pe[:feats.size(1)]
        padded = ~length_mask(lengths, feats.size(1))
        for attn, norm1, ff in zip(self.attn, self.norm1, self.ff):
            n = norm1(h)
            h = h + attn(n, n, n, key_padding_mask=padded, need_weights=False)[0]
            h = h + ff(h)
        return self.out(h)


class GRUStudent(nn.Module):
    def __init__(self, hidden=20):
        super().__init__()
        self.gru = nn.GRU(FEATS, hidden, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * hidden, PHONES)

    def forward(self, feats, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(feats, lengths, batch_first=True, enforce_sorted=False)
        h, _ = nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=feats.size(1))
        return self.out(h)


def frame_kd(student_logits, teacher_logits, temperature=2.0):
    """(frames, phones) each: summed over phones, averaged over frames."""
    log_s = F.log_softmax(student_logits / temperature, dim=-1)
    p_t = F.softmax(teacher_logits / temperature, dim=-1)
    return F.kl_div(log_s, p_t, reduction="batchmean") * temperature ** 2


def train(model, loader, epochs, lr, teacher=None, kd_weight=0.5):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    if teacher is not None:
        teacher.eval()
    for epoch in range(epochs):
        model.train()
        seen, total = 0, 0.0
        for feats, labels, lengths in loader:
            real = length_mask(lengths, feats.size(1))
            logits = model(feats, lengths)
            loss = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=PAD)
            if teacher is not None:
                with torch.no_grad():
                    teacher_logits = teacher(feats, lengths)
                loss = (1 - kd_weight) * loss + kd_weight * frame_kd(logits[real], teacher_logits[real])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            frames = int(real.sum())
            seen += frames
            total += loss.item() * frames
        print(f"epoch {epoch + 1:2d}  loss per frame {total / seen:.4f}")


@torch.no_grad()
def frame_accuracy(model, loader):
    model.eval()
    right = frames = 0
    for feats, labels, lengths in loader:
        real = labels != PAD
        right += (model(feats, lengths).argmax(-1)[real] == labels[real]).sum().item()
        frames += real.sum().item()
    return 100 * right / frames


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(4)
    means = torch.randn(PHONES, FEATS, generator=generator)
    train_set, test_set = Utterances(400, generator, means), Utterances(150, generator, means)
    train_loader = DataLoader(train_set, batch_size=25, shuffle=True, collate_fn=collate)
    test_loader = DataLoader(test_set, batch_size=50, collate_fn=collate)

    teacher = TransformerTeacher()
    train(teacher, train_loader, epochs=8, lr=2e-3)
    print(f"teacher {frame_accuracy(teacher, test_loader):.2f}")
    student = GRUStudent()
    train(student, train_loader, epochs=9, lr=6e-3, teacher=teacher)
    print(f"top1 {frame_accuracy(student, test_loader):.2f}")


if __name__ == "__main__":
    main()
