"""Correlations between and within classes, in a Trainer with compute_loss (own small Trainer)."""
import argparse
import math
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset


@dataclass
class TrainingArguments:
    num_train_epochs: int = 40
    per_device_train_batch_size: int = 25
    learning_rate: float = 1e-2
    weight_decay: float = 1e-3
    warmup_ratio: float = 0.1
    logging_epochs: int = 10


@dataclass
class DistillArguments(TrainingArguments):
    tau: float = 1.5
    gamma_inter: float = 1.5
    gamma_intra: float = 1.5


class DictDataset(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return {"pixel_values": self.x[i], "labels": self.y[i]}


class Classifier(nn.Module):
    def __init__(self, hidden, dropout=0.0):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv1d(8, hidden, 3, padding=1), nn.GELU(), nn.Dropout(dropout),
                                     nn.Conv1d(hidden, hidden, 3, padding=1), nn.GELU())
        self.classifier = nn.Linear(4 * hidden, 10)

    def forward(self, pixel_values, labels=None):
        h = F.avg_pool1d(self.encoder(pixel_values), 2)
        logits = self.classifier(h.flatten(1))
        loss = F.cross_entropy(logits, labels) if labels is not None else None
        return {"loss": loss, "logits": logits}


class Trainer:
    def __init__(self, model, args, train_dataset, eval_dataset):
        self.model, self.args = model, args
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset

    def compute_loss(self, model, inputs, return_outputs=False):
        outputs = model(**inputs)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def create_optimizer_and_scheduler(self, steps):
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=self.args.learning_rate, weight_decay=self.args.weight_decay)
        warm = max(1, int(self.args.warmup_ratio * steps))
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda s: s / warm if s < warm else max(0.0, (steps - s) / (steps - warm)))

    def training_step(self, inputs):
        self.model.train()
        loss = self.compute_loss(self.model, inputs)
        loss.backward()
        self.optimizer.step()
        self.lr_scheduler.step()
        self.model.zero_grad()
        return loss.detach()

    def train(self):
        loader = DataLoader(self.train_dataset, self.args.per_device_train_batch_size, shuffle=True)
        self.create_optimizer_and_scheduler(self.args.num_train_epochs * math.ceil(len(self.train_dataset) / loader.batch_size))
        for epoch in range(1, self.args.num_train_epochs + 1):
            losses = torch.stack([self.training_step(inputs) for inputs in loader])
            if epoch % self.args.logging_epochs == 0:
                print({"epoch": epoch, "loss": round(losses.mean().item(), 4)})

    @torch.no_grad()
    def evaluate(self, model=None):
        model = (model or self.model).eval()
        preds = model(self.eval_dataset.x)["logits"].argmax(-1)
        return {"eval_accuracy": (preds == self.eval_dataset.y).float().mean().item() * 100}


def correlation(a, b, dim, eps=1e-8):
    a, b = a - a.mean(dim, keepdim=True), b - b.mean(dim, keepdim=True)
    return F.cosine_similarity(a, b, dim=dim, eps=eps)


class DISTTrainer(Trainer):
    """Both terms are minus a correlation: at best −1 each, so that the whole goes below zero
    as it should (the usual 1 − r differs by a constant alone)."""

    def __init__(self, *args, teacher_model, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = teacher_model.eval().requires_grad_(False)

    def compute_loss(self, model, inputs, return_outputs=False):
        outputs = model(**inputs)
        with torch.no_grad():
            teacher_logits = self.teacher(inputs["pixel_values"])["logits"]
        p_s = F.softmax(outputs["logits"] / self.args.tau, dim=1)
        p_t = F.softmax(teacher_logits / self.args.tau, dim=1)
        inter = -correlation(p_s, p_t, dim=1).mean()
        intra = -correlation(p_s, p_t, dim=0).mean()
        loss = outputs["loss"] + self.args.tau**2 * (self.args.gamma_inter * inter + self.args.gamma_intra * intra)
        return (loss, outputs) if return_outputs else loss


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32) / 16, torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(4))
    train, few, test = order[:1100], order[:150], order[1100:]
    test_set = DictDataset(x[test], y[test])
    teacher = Classifier(48, 0.1)
    pre = Trainer(teacher, TrainingArguments(num_train_epochs=10, per_device_train_batch_size=50, learning_rate=4e-3),
                  DictDataset(x[train], y[train]), test_set)
    pre.train()
    print(f"teacher {pre.evaluate()['eval_accuracy']:.2f}")
    trainer = DISTTrainer(Classifier(10), DistillArguments(), DictDataset(x[few], y[few]), test_set, teacher_model=teacher)
    trainer.train()
    print(f"top1 {trainer.evaluate()['eval_accuracy']:.2f}")


if __name__ == "__main__":
    main()
