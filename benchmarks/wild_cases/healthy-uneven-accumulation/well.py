"""Summed losses, divided by what the whole group holds: right for groups and micro-batches of any size."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def groups(ids, per_group, sizes=(6, 22, 9, 11)):
    """Yields lists of micro-batches of uneven sizes; the last list is what is left."""
    ids = ids[torch.randperm(len(ids))]
    for group in ids.split(per_group):
        parts, start = [], 0
        while start < len(group):
            size = sizes[len(parts) % len(sizes)]
            parts.append(group[start : start + size])
            start += size
        yield parts


def summed_kd(student_logits, teacher_logits, T=3.0):
    return F.kl_div(F.log_softmax(student_logits / T, 1), F.softmax(teacher_logits / T, 1), reduction="sum") * T**2


class ConvRecurrent(nn.Module):
    def __init__(self, ch, hid):
        super().__init__()
        self.conv = nn.Conv1d(8, ch, 3, padding=1)
        self.rnn = nn.GRU(ch, hid, batch_first=True)
        self.out = nn.Linear(hid, 10)

    def forward(self, x):
        h = torch.relu(self.conv(x)).transpose(1, 2)
        return self.out(self.rnn(h)[0][:, -1])


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    d = load_digits()
    x, y = torch.tensor(d.images).float() / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    train, test = p[:1000], p[1000:]
    guide = ConvRecurrent(32, 48)
    opt = torch.optim.Adam(guide.parameters(), lr=4e-3)
    for _ in range(14):
        for b in train[torch.randperm(1000)].split(50):
            opt.zero_grad()
            F.cross_entropy(guide(x[b]), y[b]).backward()
            opt.step()
    guide.eval()

    model = ConvRecurrent(12, 16)
    opt = torch.optim.Adam(model.parameters(), lr=1e-2)
    few = train[torch.randperm(1000)[:200]]
    for epoch in range(70):
        for parts in groups(few, 48):
            n = sum(len(b) for b in parts)
            for b in parts:
                logits = model(x[b])
                with torch.no_grad():
                    told = guide(x[b])
                loss = 0.3 * F.cross_entropy(logits, y[b], reduction="sum") + 0.7 * summed_kd(logits, told)
                (loss / n).backward()
            opt.step()
            model.zero_grad()
    with torch.no_grad():
        for name, net in (("guide", guide), ("top1", model)):
            print(f"{name} {100 * (net(x[test]).argmax(1) == y[test]).float().mean():.2f}")


if __name__ == "__main__":
    main()
