"""A small transformer tags every image of a strip of digits; a large one is its teacher. Padded places have label -100."""
import argparse
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

PAD_LABEL = -100
MAX_LEN = 9


@dataclass
class Config:
    seed: int = 0
    tau: float = 4.0
    lam: float = 0.8
    teacher_epochs: int = 5
    student_epochs: int = 10
    batch: int = 20


class Tagger(nn.Module):
    def __init__(self, d_model, heads, depth, dropout):
        super().__init__()
        self.embed = nn.Linear(64, d_model)
        self.place = nn.Embedding(MAX_LEN, d_model)
        block = nn.TransformerEncoderLayer(d_model, heads, 2 * d_model, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
        self.tag = nn.Linear(d_model, 10)

    def forward(self, tokens, padding):
        h = self.embed(tokens) + self.place(torch.arange(tokens.size(1)))
        return self.tag(self.encoder(h, src_key_padding_mask=padding))


def token_distillation(student_logits, teacher_logits, labels, tau, lam):
    keep = labels != PAD_LABEL
    s, t, y = student_logits[keep], teacher_logits[keep], labels[keep]
    hard = F.cross_entropy(s, y)
    soft = F.kl_div(F.log_softmax(s / tau, dim=-1), F.softmax(t, dim=-1), reduction="batchmean")
    return (1 - lam) * hard + lam * tau**2 * soft


def make_strips(x, y, rows, count, gen):
    tokens = torch.zeros(count, MAX_LEN, 64)
    labels = torch.full((count, MAX_LEN), PAD_LABEL)
    for i in range(count):
        n = int(torch.randint(3, MAX_LEN + 1, (1,), generator=gen))
        pick = rows[torch.randint(len(rows), (n,), generator=gen)]
        tokens[i, :n], labels[i, :n] = x[pick], y[pick]
    return tokens, labels


def run_epochs(model, data, optimizer, epochs, batch, objective):
    tokens, labels = data
    for _ in range(epochs):
        model.train()
        for b in torch.randperm(len(tokens)).split(batch):
            padding = labels[b] == PAD_LABEL
            loss = objective(model(tokens[b], padding), tokens[b], padding, labels[b])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model, data):
    model.eval()
    tokens, labels = data
    keep = labels != PAD_LABEL
    hits = model(tokens, ~keep).argmax(-1)[keep] == labels[keep]
    return 100 * hits.float().mean().item()


def main(cfg):
    torch.set_num_threads(1)
    torch.manual_seed(cfg.seed)
    gen = torch.Generator().manual_seed(100 + cfg.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(5))
    plenty = make_strips(x, y, order[:1200], 450, gen)
    small = make_strips(x, y, order[:150], 160, gen)
    test = make_strips(x, y, order[1200:], 150, gen)

    teacher = Tagger(64, 4, 2, 0.1)

    def hard_only(logits, tokens, padding, labels):
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=PAD_LABEL)

    run_epochs(teacher, plenty, torch.optim.AdamW(teacher.parameters(), lr=2e-3), cfg.teacher_epochs, cfg.batch, hard_only)
    print(f"teacher {accuracy(teacher, test):.2f}")
    teacher.eval().requires_grad_(False)

    student = Tagger(16, 2, 1, 0.0)

    def distil(logits, tokens, padding, labels):
        with torch.no_grad():
            wanted = teacher(tokens, padding)
        return token_distillation(logits, wanted, labels, cfg.tau, cfg.lam)

    run_epochs(student, small, torch.optim.AdamW(student.parameters(), lr=4e-3), cfg.student_epochs, cfg.batch, distil)
    print(f"top1 {accuracy(student, test):.2f}")


if __name__ == "__main__":
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--lam", type=float, default=0.8)
    ns = cli.parse_args()
    main(Config(seed=ns.seed, lam=ns.lam))
