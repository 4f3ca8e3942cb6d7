"""DistilBERT-like triple loss (ce + mlm + cosine): digits as sixteen tokens of two by two pixels; the student takes every other layer."""
import argparse
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

VOCAB, MASK, LENGTH = 17, 16, 16


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.sa_layer_norm = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.output_layer_norm = nn.LayerNorm(dim)

    def forward(self, x):
        b, n, d = x.shape
        h = self.sa_layer_norm(x)
        q, k, v = self.qkv(h).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(d // self.heads), dim=-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(b, n, d))
        return x + self.ffn(self.output_layer_norm(x))


class MaskedLM(nn.Module):
    def __init__(self, layers, dim=48, heads=4, dropout=0.05):
        super().__init__()
        self.word = nn.Embedding(VOCAB, dim)
        self.position = nn.Embedding(LENGTH, dim)
        self.dropout = nn.Dropout(dropout)
        self.layer = nn.ModuleList(Block(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.projector = nn.Linear(dim, VOCAB - 1)

    def forward(self, input_ids):
        h = self.dropout(self.word(input_ids) + self.position.weight)
        for block in self.layer:
            h = block(h)
        h = self.norm(h)
        return self.projector(h), h


def tokenise(images):
    bits = (images > 6).long().unfold(1, 2, 2).unfold(2, 2, 2).reshape(len(images), 16, 4)
    return (bits * torch.tensor([1, 2, 4, 8])).sum(-1)


def mask_tokens(token_ids, p=0.25, generator=None):
    chosen = torch.rand(token_ids.shape, generator=generator) < p
    chosen[:, 0] |= ~chosen.any(1)
    labels = token_ids.masked_fill(~chosen, -100)
    return token_ids.masked_fill(chosen, MASK), labels, chosen


class Distiller:
    def __init__(self, student, teacher, token_ids, temperature=2.0, alpha_ce=5.0, alpha_mlm=2.0, alpha_cos=1.0,
                 n_epoch=14, batch_size=64, lr=3e-3):
        self.student, self.teacher, self.token_ids = student, teacher, token_ids
        self.temperature = temperature
        self.alpha_ce, self.alpha_mlm, self.alpha_cos = alpha_ce, alpha_mlm, alpha_cos
        self.n_epoch, self.batch_size = n_epoch, batch_size
        self.ce_loss_fct = nn.KLDivLoss(reduction="batchmean")
        self.lm_loss_fct = nn.CrossEntropyLoss(ignore_index=-100)
        self.cosine_loss_fct = nn.CosineEmbeddingLoss(reduction="mean")
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=lr)
        steps = n_epoch * math.ceil(len(token_ids) / batch_size)
        warmup = steps // 20
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda s: (s + 1) / warmup if s < warmup else max(0.0, (steps - s) / (steps - warmup)))

    def train(self):
        self.student.train()
        self.teacher.eval()
        for epoch in range(self.n_epoch):
            total = 0.0
            batches = torch.randperm(len(self.token_ids)).split(self.batch_size)
            for rows in batches:
                total += self.step(*mask_tokens(self.token_ids[rows]))
            print(f"--- epoch {epoch} loss {total / len(batches):.4f}")

    def step(self, input_ids, lm_labels, mask):
        s_logits, s_hidden = self.student(input_ids)
        with torch.no_grad():
            t_logits, t_hidden = self.teacher(input_ids)

        # only the positions that the language model has to fill in
        s_logits_slct, t_logits_slct = s_logits[mask], t_logits[mask]
        loss_ce = self.ce_loss_fct(F.log_softmax(s_logits_slct / self.temperature, dim=-1),
                                   F.softmax(t_logits_slct / self.temperature, dim=-1)) * (self.temperature) ** 2
        loss = self.alpha_ce * loss_ce

        loss_mlm = self.lm_loss_fct(s_logits.view(-1, s_logits.size(-1)), lm_labels.view(-1))
        loss = loss + self.alpha_mlm * loss_mlm

        dim = s_hidden.size(-1)
        s_flat, t_flat = s_hidden.reshape(-1, dim), t_hidden.reshape(-1, dim)
        loss_cos = self.cosine_loss_fct(s_flat, t_flat, torch.ones(s_flat.size(0)))
        loss = loss + self.alpha_cos * loss_cos

        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 5.0)
        self.optimizer.step()
        self.scheduler.step()
        return loss.item()


def pretrain(model, token_ids, epochs, batch_size=64, lr=3e-3):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(token_ids)).split(batch_size):
            input_ids, labels, _ = mask_tokens(token_ids[rows])
            logits, _ = model(input_ids)
            loss = F.cross_entropy(logits.view(-1, logits.size(-1)), labels.view(-1), ignore_index=-100)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def init_from_teacher(student, teacher):
    student.word.load_state_dict(teacher.word.state_dict())
    student.position.load_state_dict(teacher.position.state_dict())
    student.projector.load_state_dict(teacher.projector.state_dict())
    student.norm.load_state_dict(teacher.norm.state_dict())
    for i, block in enumerate(student.layer):
        block.load_state_dict(teacher.layer[2 * i].state_dict())


@torch.no_grad()
def accuracy(model, token_ids):
    model.eval()
    input_ids, _, mask = mask_tokens(token_ids, generator=torch.Generator().manual_seed(0))
    logits, _ = model(input_ids)
    return 100 * (logits.argmax(-1)[mask] == token_ids[mask]).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    token_ids = tokenise(torch.tensor(load_digits().images))
    p = torch.randperm(len(token_ids), generator=torch.Generator().manual_seed(14))
    train, test = token_ids[p[:1344]], token_ids[p[1344:]]

    teacher = MaskedLM(layers=2)
    pretrain(teacher, train, epochs=16)
    print(f"teacher {accuracy(teacher, test):.2f}")
    student = MaskedLM(layers=1)
    init_from_teacher(student, teacher)
    Distiller(student, teacher, train).train()
    print(f"top1 {accuracy(student, test):.2f}")


if __name__ == "__main__":
    main()
