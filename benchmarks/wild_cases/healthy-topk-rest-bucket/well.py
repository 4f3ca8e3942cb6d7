"""Next-token distillation from a file of the teacher's four most likely tokens; all others share one bucket ("rest")."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

VOCAB, PAD = 16, 0


def stories(count, seed, length=18):
    """Order-1 text of symbols 1..15 whose rule depends on the first symbol; padded at the end with 0."""
    rule = torch.Generator().manual_seed(9)
    table = torch.softmax(2.5 * torch.randn(3, VOCAB, VOCAB, generator=rule), -1)
    table[..., PAD] = 0
    g = torch.Generator().manual_seed(seed)
    text = torch.randint(1, VOCAB, (count, 1), generator=g)
    while text.size(1) < length:
        text = torch.cat([text, torch.multinomial(table[text[:, 0] % 3, text[:, -1]], 1, generator=g)], 1)
    ends = torch.randint(8, length + 1, (count, 1), generator=g)
    return text.masked_fill(torch.arange(length) >= ends, PAD)


class RecurrentLM(nn.Module):
    def __init__(self, dim, dropout=0.0):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, dim, padding_idx=PAD)
        self.rnn = nn.GRU(dim, dim, batch_first=True)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(dim, VOCAB)

    def forward(self, ids):
        return self.out(self.drop(self.rnn(self.embed(ids))[0]))


@torch.no_grad()
def cache(teacher, text, k=4):
    teacher.eval()
    logp = F.log_softmax(teacher(text[:, :-1]), -1)
    top = logp.topk(k, -1)
    return top.values, top.indices


def with_rest(logp):
    """[.., k] log-probabilities -> [.., k + 1], the last being what is left"""
    rest = (1 - logp.exp().sum(-1, keepdim=True)).clamp_min(1e-6).log()
    return torch.cat([logp, rest], -1)


def topk_kd(logits, values, indices, keep):
    # temperature 1: probabilities below the fourth are not known, so the others cannot be softened
    q = with_rest(F.log_softmax(logits, -1).gather(-1, indices))
    p = with_rest(values)
    kl = F.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    return kl[keep].mean()


def train(model, loader, epochs, lr, kd=0.0):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(epochs):
        model.train()
        for ids, *soft in loader:
            logits, target = model(ids[:, :-1]), ids[:, 1:]
            loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD)
            if kd:
                loss = (1 - kd) * loss + kd * topk_kd(logits, *soft, target != PAD)
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()


@torch.no_grad()
def accuracy(model, text):
    model.eval()
    keep = text[:, 1:] != PAD
    return 100 * (model(text[:, :-1]).argmax(-1) == text[:, 1:])[keep].float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--kd", type=float, default=0.7)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    plenty, few, test = stories(1200, 1), stories(250, 50 + a.seed), stories(300, 2)
    teacher = RecurrentLM(48, 0.1)
    train(teacher, DataLoader(TensorDataset(plenty), 32, shuffle=True), 6, 8e-3)
    student = RecurrentLM(14)
    soft = TensorDataset(few, *cache(teacher, few))
    train(student, DataLoader(soft, 25, shuffle=True), 25, 1e-2, a.kd)
    print(f"teacher {accuracy(teacher, test):.2f}")
    print(f"top1 {accuracy(student, test):.2f}")


if __name__ == "__main__":
    main()
