"""A small causal transformer is distilled into a smaller one by the reverse KL (as MiniLLM does), with no labels, padding left out."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F

PAD, VOCAB, LENGTH = 0, 11, 16


class Causal(nn.Module):
    def __init__(self, d, layers, heads=2):
        super().__init__()
        self.tok, self.pos = nn.Embedding(VOCAB, d, padding_idx=PAD), nn.Parameter(torch.randn(LENGTH, d) * 0.02)
        layer = nn.TransformerEncoderLayer(d, heads, 2 * d, dropout=0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.lm = nn.Linear(d, VOCAB)
        self.register_buffer("mask", torch.triu(torch.full((LENGTH, LENGTH), float("-inf")), 1))

    def forward(self, ids):
        n = ids.shape[1]
        return self.lm(self.body(self.tok(ids) + self.pos[:n], mask=self.mask[:n, :n]))


def corpus(n, g):
    """x[k] follows x[k-1] and x[k-2] by a rule, with one coin toss in twelve; lengths differ."""
    x = torch.randint(1, VOCAB, (n, LENGTH + 1), generator=g)
    for k in range(2, LENGTH + 1):
        rule = torch.where(x[:, k - 1] > x[:, k - 2], x[:, k - 1] % 10 + 1, (x[:, k - 1] + 3) % 10 + 1)
        x[:, k] = torch.where(torch.rand(n, generator=g) < 1 / 12, x[:, k], rule)
    length = torch.randint(10, LENGTH + 2, (n, 1), generator=g)
    return x.masked_fill(torch.arange(LENGTH + 1) >= length, PAD)


def reverse_kl(student, teacher, real):
    """KL(student || teacher) on purpose: mode-seeking. Mean over the real positions."""
    ls, lt = student.log_softmax(-1), teacher.log_softmax(-1)
    per_token = (ls.exp() * (ls - lt)).sum(-1)
    return per_token[real].mean()


def token_accuracy(net, seqs):
    """Of the tokens that the rule fixes, those foretold."""
    net.eval()
    with torch.no_grad():
        guess = net(seqs[:, :-1]).argmax(-1)[:, 1:]
    want = seqs[:, 2:]
    real = want != PAD
    return 100 * (guess[real] == want[real]).float().mean().item()


def main(seed):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(4)
    train, test = corpus(3000, g), corpus(500, g)
    teacher = Causal(32, 2)
    opt = torch.optim.AdamW(teacher.parameters(), 4e-3)
    for _ in range(6):
        teacher.train()
        for b in torch.randperm(len(train)).split(60):
            s = train[b]
            loss = F.cross_entropy(teacher(s[:, :-1]).flatten(0, 1), s[:, 1:].flatten(), ignore_index=PAD)
            opt.zero_grad()
            loss.backward()
            opt.step()
    teacher.eval()
    print(f"teacher {token_accuracy(teacher, test):.2f}")

    student = Causal(16, 1)
    opt = torch.optim.AdamW(student.parameters(), 8e-3)
    epochs, size = 8, 60
    total, warm = epochs * (len(train) // size), 20
    sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda k: min((k + 1) / warm, (total - k) / (total - warm)))
    for _ in range(epochs):
        student.train()
        for b in torch.randperm(len(train)).split(size):
            ids = train[b, :-1]
            with torch.no_grad():
                t = teacher(ids)
            loss = reverse_kl(student(ids), t, train[b, 1:] != PAD)
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            opt.step()
            sched.step()
    print(f"top1 {token_accuracy(student, test):.2f}")


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    main(ap.parse_args().seed)
