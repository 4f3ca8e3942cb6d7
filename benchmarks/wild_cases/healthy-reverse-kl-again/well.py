"""Digits as sequences of rows with a label at each row seen so far; padding at the end. Reverse KL, as in MiniLLM."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

IGNORE = -100


def kd_loss(student_logits, teacher_logits, labels):
    """KL(student || teacher), the mean over positions that have a label"""
    log_q = F.log_softmax(student_logits, dim=-1)
    log_p = F.log_softmax(teacher_logits.detach(), dim=-1)
    per_position = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    mask = (labels != IGNORE).float()
    return (per_position * mask).sum() / mask.sum()


class Reader(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.rnn = nn.GRU(8, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 10)

    def forward(self, rows):
        return self.head(self.rnn(rows)[0])


def batch_of(x, y, i, gen):
    rows = x[i].view(-1, 8, 8)
    length = torch.randint(6, 9, (len(i), 1), generator=gen)
    place = torch.arange(8)
    labels = torch.where((place < length) & (place >= 5), y[i][:, None], IGNORE)
    return rows * (place < length)[..., None], labels


def train(model, x, y, epochs, lr, gen, teacher=None):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        for i in torch.randperm(len(x), generator=gen).split(32):
            rows, labels = batch_of(x, y, i, gen)
            logits = model(rows)
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
            if teacher is not None:
                with torch.no_grad():
                    answers = teacher(rows)
                loss = 0.5 * loss + 0.5 * kd_loss(logits, answers, labels)
            opt.zero_grad()
            loss.backward()
            opt.step()
    return model.eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    gen = torch.Generator().manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(14))
    x, y = x[p], y[p]
    teacher = train(Reader(48), x[:1100], y[:1100], 12, 1e-2, gen)
    student = train(Reader(16), x[:300], y[:300], 40, 1e-2, gen, teacher)
    with torch.no_grad():
        logits = student(x[1100:].view(-1, 8, 8))[:, -1]
    print(f"top1 {100 * (logits.argmax(1) == y[1100:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
