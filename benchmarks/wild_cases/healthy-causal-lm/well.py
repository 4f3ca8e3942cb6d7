"""Next-token distillation with a trainer class; the language is ink, five levels of it, in texts of unequal length."""
import argparse
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

BOS, PAD, VOCAB = 5, 6, 7
IGNORE = -100


@dataclass
class Args:
    learning_rate: float = 6e-3
    epochs: int = 5
    batch_size: int = 32
    warmup: int = 10
    max_grad_norm: float = 1.0
    temperature: float = 2.0
    kd_ratio: float = 0.5


class TinyLM(nn.Module):
    def __init__(self, dim, heads, layers, dropout=0.0, longest=33):
        super().__init__()
        self.tok = nn.Embedding(VOCAB, dim, padding_idx=PAD)
        self.pos = nn.Embedding(longest, dim)
        layer = nn.TransformerEncoderLayer(dim, heads, 2 * dim, dropout, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(dim)
        self.lm_head = nn.Linear(dim, VOCAB)

    def forward(self, input_ids, attention_mask):
        length = input_ids.size(1)
        causal = torch.triu(torch.ones(length, length, dtype=torch.bool), diagonal=1)
        h = self.tok(input_ids) + self.pos(torch.arange(length))
        h = self.blocks(h, mask=causal, src_key_padding_mask=~attention_mask)
        return self.lm_head(self.norm(h))


def collate(texts):
    width = max(len(t) for t in texts)
    ids = torch.full((len(texts), width), PAD)
    for i, t in enumerate(texts):
        ids[i, : len(t)] = t
    mask = ids != PAD
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(~mask, IGNORE)}


class Trainer:
    def __init__(self, model, args, texts):
        self.model, self.args = model, args
        self.loader = torch.utils.data.DataLoader(texts, args.batch_size, shuffle=True, collate_fn=collate)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.01)
        total = args.epochs * len(self.loader)

        def factor(step):
            if step < args.warmup:
                return (step + 1) / args.warmup
            return 0.5 * (1 + math.cos(math.pi * (step - args.warmup) / (total - args.warmup)))

        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)

    def compute_loss(self, inputs):
        logits = self.model(inputs["input_ids"], inputs["attention_mask"])
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten(), ignore_index=IGNORE)

    def train(self):
        for _ in range(self.args.epochs):
            self.model.train()
            for inputs in self.loader:
                loss = self.compute_loss(inputs)
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), self.args.max_grad_norm)
                self.optimizer.step()
                self.scheduler.step()
        self.model.eval()


class KDTrainer(Trainer):
    def __init__(self, model, args, texts, teacher):
        super().__init__(model, args, texts)
        self.teacher = teacher.eval().requires_grad_(False)

    def compute_loss(self, inputs):
        T, ratio = self.args.temperature, self.args.kd_ratio
        labels = inputs["labels"][:, 1:]
        counted = labels != IGNORE
        student = self.model(inputs["input_ids"], inputs["attention_mask"])[:, :-1][counted]
        with torch.no_grad():
            teacher = self.teacher(inputs["input_ids"], inputs["attention_mask"])[:, :-1][counted]
        ce = F.cross_entropy(student, labels[counted])
        kl = F.kl_div(
            F.log_softmax(student / T, dim=-1), F.log_softmax(teacher / T, dim=-1), reduction="sum", log_target=True
        ) / counted.sum()
        return (1 - ratio) * ce + ratio * T**2 * kl


@torch.no_grad()
def next_token_accuracy(model, texts):
    model.eval()
    batch = collate(texts)
    guess = model(batch["input_ids"], batch["attention_mask"])[:, :-1].argmax(-1)
    labels = batch["labels"][:, 1:]
    counted = labels != IGNORE
    return 100 * (guess[counted] == labels[counted]).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    levels = (torch.tensor(load_digits().data).long() // 4).clamp(max=4)
    levels = levels[torch.randperm(len(levels), generator=torch.Generator().manual_seed(2))]
    rows = torch.randint(2, 5, (len(levels),), generator=torch.Generator().manual_seed(3)).tolist()
    texts = [torch.cat([torch.tensor([BOS]), t[: 8 * n]]) for t, n in zip(levels, rows)]
    train, test = texts[:1000], texts[1400:]

    teacher = TinyLM(32, 4, 2, dropout=0.05)
    Trainer(teacher, Args(epochs=4), train[:800]).train()
    print(f"teacher {next_token_accuracy(teacher, test):.2f}")
    student = TinyLM(8, 2, 1)
    KDTrainer(student, Args(), train[:400], teacher).train()
    print(f"top1 {next_token_accuracy(student, test):.2f}")


if __name__ == "__main__":
    main()
