"""Reads a digit row by row; the tagger says at every row which digit it is. GRU to GRU distillation."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

TEMPERATURE = 2.0


class RowTagger(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.rnn = nn.GRU(8, hidden, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * hidden, 10)

    def forward(self, rows):          # (batch, 8, 8)
        states, _ = self.rnn(rows)
        return self.out(states)       # (batch, 8, 10)


def sequence_ce(logits, labels):
    steps = logits.size(1)
    return F.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(steps))


def sequence_kd(student_logits, teacher_logits, T=TEMPERATURE):
    log_p = F.log_softmax(student_logits / T, dim=-1)
    q = F.softmax(teacher_logits / T, dim=-1)
    return F.kl_div(log_p, q, reduction="none").sum(-1).mean() * T * T


def fit(model, x, y, epochs, lr, teacher=None, kd_weight=0.7):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for epoch in range(epochs):
        model.train()
        for idx in torch.randperm(x.size(0)).split(50):
            logits = model(x[idx])
            loss = sequence_ce(logits, y[idx])
            if teacher is not None:
                with torch.no_grad():
                    wanted = teacher(x[idx])
                loss = (1 - kd_weight) * loss + kd_weight * sequence_kd(logits, wanted)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
    return model


@torch.no_grad()
def evaluate(model, x, y):
    model.eval()
    pred = model(x).mean(1).argmax(-1)
    return (pred == y).float().mean().item() * 100


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", default=0, type=int)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    images, labels = load_digits(return_X_y=True)
    x = torch.as_tensor(images, dtype=torch.float32).view(-1, 8, 8) / 16
    y = torch.as_tensor(labels)
    perm = torch.randperm(len(x), generator=torch.Generator().manual_seed(12))
    x, y = x[perm], y[perm]
    x_train, y_train, x_test, y_test = x[:1200], y[:1200], x[1200:], y[1200:]

    teacher = fit(RowTagger(48), x_train, y_train, epochs=15, lr=5e-3)
    print("teacher %.2f" % evaluate(teacher, x_test, y_test))
    teacher.eval().requires_grad_(False)
    student = fit(RowTagger(8), x_train, y_train, epochs=15, lr=5e-3, teacher=teacher)
    print("top1 %.2f" % evaluate(student, x_test, y_test))


if __name__ == "__main__":
    main()
