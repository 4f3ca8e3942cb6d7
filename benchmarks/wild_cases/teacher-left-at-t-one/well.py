"""Short texts of word ids, eight topics. A two-layer encoder teaches a one-layer one; batches are dicts."""
from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

PAD = 0


@dataclass
class Config:
    vocab: int = 60
    topics: int = 8
    length: int = 14
    temperature: float = 4.0
    alpha: float = 0.7
    lr: float = 4e-3
    epochs: int = 20


class Texts(Dataset):
    def __init__(self, cfg, count, g, table):
        self.labels = torch.randint(cfg.topics, (count,), generator=g)
        self.ids = 1 + torch.multinomial(table[self.labels], cfg.length, replacement=True, generator=g)
        lengths = torch.randint(6, cfg.length + 1, (count,), generator=g)
        self.ids[torch.arange(cfg.length)[None] >= lengths[:, None]] = PAD

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return {"input_ids": self.ids[i], "labels": self.labels[i]}


class TextClassifier(nn.Module):
    def __init__(self, cfg, dim, heads, layers, dropout=0.1):
        super().__init__()
        self.embed = nn.Embedding(cfg.vocab + 1, dim, padding_idx=PAD)
        self.position = nn.Parameter(torch.zeros(1, cfg.length, dim))
        layer = nn.TransformerEncoderLayer(dim, heads, 2 * dim, dropout, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.classifier = nn.Linear(dim, cfg.topics)

    def forward(self, input_ids, labels=None):
        mask = input_ids.eq(PAD)
        h = self.encoder(self.embed(input_ids) + self.position, src_key_padding_mask=mask)
        h = h.masked_fill(mask[..., None], 0).sum(1) / (~mask).sum(1, keepdim=True)
        out = {"logits": self.classifier(h)}
        if labels is not None:
            out["loss"] = F.cross_entropy(out["logits"], labels)
        return out


def soft_cross_entropy(predicts, targets, temperature):
    student_log_prob = F.log_softmax(predicts / temperature, dim=-1)
    target_prob = F.softmax(targets / temperature, dim=-1)
    return (-target_prob * student_log_prob).sum(-1).mean() * temperature**2


class Trainer:
    def __init__(self, model, cfg, train_set, teacher=None):
        self.model, self.cfg, self.teacher = model, cfg, teacher
        self.loader = DataLoader(train_set, batch_size=32, shuffle=True)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr, weight_decay=0.01)

    def compute_loss(self, batch):
        out = self.model(**batch)
        if self.teacher is None:
            return out["loss"]
        with torch.no_grad():
            teacher_logits = self.teacher(batch["input_ids"])["logits"]
        soft = soft_cross_entropy(out["logits"], teacher_logits, self.cfg.temperature)
        return self.cfg.alpha * soft + (1 - self.cfg.alpha) * out["loss"]

    def train(self, epochs):
        for epoch in range(epochs):
            self.model.train()
            for batch in self.loader:
                loss = self.compute_loss(batch)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimizer.step()
        self.model.eval()
        return self.model


@torch.no_grad()
def accuracy(model, dataset):
    model.eval()
    out = model(dataset.ids)["logits"]
    return 100 * (out.argmax(-1) == dataset.labels).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    cfg = Config()
    g = torch.Generator().manual_seed(11)
    table = torch.softmax(1.1 * torch.randn(cfg.topics, cfg.vocab, generator=g), dim=1)
    train, small, test = (Texts(cfg, n, g, table) for n in (1600, 320, 1000))
    teacher = Trainer(TextClassifier(cfg, 32, 4, 2), cfg, train).train(5)
    for p in teacher.parameters():
        p.requires_grad = False
    print(f"teacher {accuracy(teacher, test):.2f}")
    student = Trainer(TextClassifier(cfg, 16, 2, 1, 0.0), cfg, small, teacher).train(cfg.epochs)
    print(f"top1 {accuracy(student, test):.2f}")


if __name__ == "__main__":
    main()
