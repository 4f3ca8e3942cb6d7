"""Sequences of 1 to 10 digits, read one after the other by a GRU; labels of the padding are -100."""
import argparse
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

LENGTH = 10


def sequence_kd(student_logits, teacher_logits, labels, tau=2.0, alpha=0.7):
    valid = (labels != -100).float()
    log_q = F.log_softmax(student_logits / tau, dim=-1)
    log_p = F.log_softmax(teacher_logits / tau, dim=-1)
    kl = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)
    kd = (kl * valid).mean()
    ce = F.cross_entropy(student_logits.transpose(1, 2), labels, ignore_index=-100)
    return alpha * tau**2 * kd + (1 - alpha) * ce


class Reader(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.proj = nn.Linear(64, dim)
        self.rnn = nn.GRU(dim, dim, batch_first=True)
        self.lm_head = nn.Linear(2 * dim, 10)

    def forward(self, inputs_embeds):
        h = torch.tanh(self.proj(inputs_embeds))
        states, _ = self.rnn(h)
        return SimpleNamespace(logits=self.lm_head(torch.cat([h, states], dim=-1)))


def sequences(x, y, count, generator):
    rows = torch.randint(len(x), (count, LENGTH), generator=generator)
    lengths = torch.randint(1, LENGTH + 1, (count, 1), generator=generator)
    pad = torch.arange(LENGTH)[None] >= lengths
    return x[rows].masked_fill(pad[..., None], 0.0), y[rows].masked_fill(pad, -100)


def train(model, images, labels, epochs, lr, teacher=None):
    opt = torch.optim.AdamW(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        for b in torch.randperm(len(images)).split(20):
            logits = model(inputs_embeds=images[b]).logits
            if teacher is None:
                loss = F.cross_entropy(logits.flatten(0, 1), labels[b].flatten())
            else:
                with torch.no_grad():
                    teacher_logits = teacher(inputs_embeds=images[b]).logits
                loss = sequence_kd(logits, teacher_logits, labels[b])
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            opt.step()
    return model.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(207))
    g = torch.Generator().manual_seed(seed)
    teacher = train(Reader(64), *sequences(x[p[:1200]], y[p[:1200]], 400, g), epochs=9, lr=3e-3)
    student = train(Reader(8), *sequences(x[p[:150]], y[p[:150]], 80, g), epochs=60, lr=8e-3, teacher=teacher)
    images, labels = sequences(x[p[1200:]], y[p[1200:]], 200, torch.Generator().manual_seed(1))
    valid = labels != -100
    with torch.no_grad():
        for name, model in (("teacher", teacher), ("top1", student)):
            hits = model(inputs_embeds=images).logits.argmax(-1)[valid] == labels[valid]
            print(f"{name} {100 * hits.float().mean().item():.2f}")


if __name__ == "__main__":
    main()
