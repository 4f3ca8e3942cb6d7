"""Sequences of unequal length, tagged step by step; losses are summed and the gradient is
divided by the number of tags of the whole group of micro-batches (the last group is smaller)."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

VOCAB, TAGS, PAD = 12, 4, -100


def make_sequences(n, generator):
    """Tag of a step: (sum of this and the last two symbols) mod 4; lengths of 5 to 14."""
    data = []
    for _ in range(n):
        length = int(torch.randint(5, 15, (1,), generator=generator))
        s = torch.randint(0, VOCAB, (length,), generator=generator)
        before = F.pad(s, (2, 0))
        data.append((s, (s + before[1:-1] + before[:-2]) % TAGS))
    return data


def collate(items):
    xs, ys = zip(*items)
    return pad_sequence(xs, batch_first=True), pad_sequence(ys, batch_first=True, padding_value=PAD)


class Tagger(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, dim)
        self.conv = nn.Conv1d(dim, hidden, 3)
        self.mid = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, TAGS)

    def forward(self, x):
        e = F.pad(self.embed(x).transpose(1, 2), (2, 0))
        h = F.relu(self.conv(e)).transpose(1, 2)
        return self.out(F.relu(self.mid(h)))


class SumCriterion(nn.Module):
    """Sums over the tags that count; padding is in neither term."""

    def __init__(self, T, alpha):
        super().__init__()
        self.T, self.alpha = T, alpha

    def forward(self, s, t, labels):
        keep = labels != PAD
        s, t, labels = s[keep], t[keep], labels[keep]
        ce = F.cross_entropy(s, labels, reduction="sum")
        kd = F.kl_div(F.log_softmax(s / self.T, -1), F.softmax(t / self.T, -1), reduction="sum") * self.T**2
        return (1 - self.alpha) * ce + self.alpha * kd, len(labels)


def batches(data, size):
    for i in torch.randperm(len(data)).split(size):
        yield collate([data[j] for j in i.tolist()])


def train_one_epoch(student, teacher, data, criterion, optimizer, accum, micro):
    student.train()
    optimizer.zero_grad()
    total, tags, in_group = 0.0, 0, 0
    micro_batches = list(batches(data, micro))
    for step, (x, y) in enumerate(micro_batches, 1):
        with torch.no_grad():
            target = teacher(x)
        loss, n = criterion(student(x), target, y)
        loss.backward()
        tags, in_group = tags + n, in_group + n
        total += loss.item()
        if step % accum == 0 or step == len(micro_batches):
            for p in student.parameters():
                p.grad.div_(in_group)
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            in_group = 0
    return total / tags


def train_teacher(data, epochs=8):
    teacher = Tagger(24, 128)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=5e-3)
    for _ in range(epochs):
        for x, y in batches(data, 50):
            loss = F.cross_entropy(teacher(x).transpose(1, 2), y, ignore_index=PAD)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return teacher.eval().requires_grad_(False)


@torch.no_grad()
def tag_accuracy(model, data):
    model.eval()
    x, y = collate(data)
    keep = y != PAD
    return (model(x).argmax(-1) == y)[keep].float().mean().item() * 100


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--micro", type=int, default=8)
    parser.add_argument("--accum", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    g = torch.Generator().manual_seed(23)
    train, test = make_sequences(1500, g), make_sequences(400, g)
    teacher = train_teacher(train)
    print(f"teacher {tag_accuracy(teacher, test):.2f}")
    student = Tagger(12, 48)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, args.epochs)
    criterion = SumCriterion(T=2.0, alpha=0.7)
    for epoch in range(args.epochs):
        loss = train_one_epoch(student, teacher, train[:300], criterion, optimizer, args.accum, args.micro)
        scheduler.step()
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1} loss {loss:.4f}")
    print(f"top1 {tag_accuracy(student, test):.2f}")


if __name__ == "__main__":
    main()
