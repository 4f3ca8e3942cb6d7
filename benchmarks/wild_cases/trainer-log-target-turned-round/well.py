"""DistillTrainer: a bag-of-attention encoder for short token sequences, in the manner of the Trainer examples."""
import argparse
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

VOCAB, LENGTH, CLASSES = 40, 12, 8


class TopicDataset(Dataset):
    """Each topic owns five tokens; a sentence has some of its own topic and a lot of noise."""

    def __init__(self, n, seed):
        g = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(CLASSES, (n,), generator=g)
        own = self.labels[:, None] * 5 + torch.randint(5, (n, LENGTH), generator=g)
        noise = torch.randint(VOCAB, (n, LENGTH), generator=g)
        keep = torch.rand(n, LENGTH, generator=g) < 0.35
        self.input_ids = torch.where(keep, own, noise)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return {"input_ids": self.input_ids[i], "labels": self.labels[i]}


class Classifier(nn.Module):
    def __init__(self, hidden, heads, layers, dropout=0.1):
        super().__init__()
        self.tok = nn.Embedding(VOCAB, hidden)
        self.pos = nn.Parameter(0.02 * torch.randn(LENGTH, hidden))
        block = nn.TransformerEncoderLayer(hidden, heads, 2 * hidden, dropout, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(hidden)
        self.classifier = nn.Linear(hidden, CLASSES)

    def forward(self, input_ids, labels=None):
        h = self.encoder(self.tok(input_ids) + self.pos)
        logits = self.classifier(self.norm(h).mean(1))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


@dataclass
class TrainingArguments:
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    per_device_train_batch_size: int = 32
    num_train_epochs: int = 8
    max_grad_norm: float = 1.0
    alpha: float = 0.5
    temperature: float = 2.0


class Trainer:
    def __init__(self, model, args, train_dataset):
        self.model, self.args, self.train_dataset = model, args, train_dataset

    def compute_loss(self, model, inputs, return_outputs=False):
        outputs = model(**inputs)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def train(self):
        a = self.args
        loader = DataLoader(self.train_dataset, batch_size=a.per_device_train_batch_size, shuffle=True)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=a.learning_rate, weight_decay=a.weight_decay)
        total = a.num_train_epochs * len(loader)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
        for _ in range(a.num_train_epochs):
            self.model.train()
            for inputs in loader:
                loss = self.compute_loss(self.model, inputs)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), a.max_grad_norm)
                optimizer.step()
                scheduler.step()

    @torch.no_grad()
    def evaluate(self, dataset):
        self.model.eval()
        logits = self.model(dataset.input_ids)["logits"]
        return 100 * (logits.argmax(-1) == dataset.labels).float().mean().item()


class DistillTrainer(Trainer):
    def __init__(self, *args, teacher_model, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = teacher_model.eval().requires_grad_(False)
        self.kl = nn.KLDivLoss(reduction="batchmean", log_target=True)

    def compute_loss(self, model, inputs, return_outputs=False):
        outputs = model(**inputs)
        with torch.no_grad():
            teacher_outputs = self.teacher(inputs["input_ids"])
        T = self.args.temperature
        s_logp = F.log_softmax(outputs["logits"] / T, dim=-1)
        t_logp = F.log_softmax(teacher_outputs["logits"] / T, dim=-1)
        distill = self.kl(s_logp, t_logp) * T**2
        loss = self.args.alpha * outputs["loss"] + (1.0 - self.args.alpha) * distill
        return (loss, outputs) if return_outputs else loss


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--alpha", type=float, default=0.2, help="share of the labels")
    cli = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(cli.seed)
    large, small, test = TopicDataset(2000, 1), TopicDataset(960, 10 + cli.seed), TopicDataset(1000, 2)
    teacher = Classifier(48, 4, 2)
    first = Trainer(teacher, TrainingArguments(num_train_epochs=5, learning_rate=2e-3), large)
    first.train()
    print(f"teacher {first.evaluate(test):.2f}")
    student = Classifier(16, 2, 1, dropout=0.0)
    trainer = DistillTrainer(student, TrainingArguments(alpha=cli.alpha), small, teacher_model=teacher)
    trainer.train()
    print(f"top1 {trainer.evaluate(test):.2f}")


if __name__ == "__main__":
    main()
