"""Trainer in the manner of the big libraries: configs, dict batches, outputs with fields."""
import argparse
from dataclasses import dataclass, field
from typing import Optional

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset


@dataclass
class ClassifierOutput:
    loss: Optional[torch.Tensor] = None
    logits: torch.Tensor = None
    hidden: tuple = field(default_factory=tuple)


@dataclass
class TrainingArguments:
    epochs: int = 25
    batch_size: int = 32
    learning_rate: float = 2e-3
    temperature: float = 2.0
    alpha: float = 0.5
    weight_decay: float = 0.01


class DigitClassifier(nn.Module):
    def __init__(self, width, layers):
        super().__init__()
        self.embed = nn.Linear(64, width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU()) for _ in range(layers))
        self.classifier = nn.Linear(width, 10)

    def forward(self, pixel_values, labels=None):
        h = self.embed(pixel_values)
        states = [h]
        for block in self.blocks:
            h = h + block(h)
            states.append(h)
        logits = self.classifier(h)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ClassifierOutput(loss, logits, tuple(states))


class Digits(Dataset):
    def __init__(self, rows):
        x, y = load_digits(return_X_y=True)
        self.x, self.y = x[rows] / 16, y[rows]

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return {"pixel_values": torch.tensor(self.x[i], dtype=torch.float32), "labels": int(self.y[i])}


class Trainer:
    def __init__(self, model, args, train_dataset, eval_dataset):
        self.model, self.args = model, args
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay)

    def compute_loss(self, model, inputs):
        return model(**inputs).loss

    def train(self):
        loader = DataLoader(self.train_dataset, batch_size=self.args.batch_size, shuffle=True)
        for _ in range(self.args.epochs):
            self.model.train()
            for inputs in loader:
                self.optimizer.zero_grad()
                self.compute_loss(self.model, inputs).backward()
                self.optimizer.step()

    def evaluate(self):
        self.model.eval()
        hits = []
        with torch.no_grad():
            for inputs in DataLoader(self.eval_dataset, batch_size=256):
                hits.append(self.model(inputs["pixel_values"]).logits.argmax(-1) == inputs["labels"])
        return 100 * torch.cat(hits).float().mean().item()


class DistillTrainer(Trainer):
    def __init__(self, *args, teacher_model, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = teacher_model.eval()

    def compute_loss(self, model, inputs):
        outputs = model(**inputs)
        with torch.no_grad():
            teacher_outputs = self.teacher(inputs["pixel_values"])
        t = self.args.temperature
        kd = F.kl_div(
            F.log_softmax(outputs.logits / t, dim=-1),
            F.log_softmax(teacher_outputs.logits / t, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        return self.args.alpha * outputs.loss + (1 - self.args.alpha) * kd * t**2


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    opts = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(opts.seed)
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(5))
    plenty, few, test = Digits(order[:1200].numpy()), Digits(order[:240].numpy()), Digits(order[1200:].numpy())
    teacher = Trainer(DigitClassifier(96, 2), TrainingArguments(epochs=12), plenty, test)
    teacher.train()
    print(f"teacher {teacher.evaluate():.2f}")
    student = DistillTrainer(DigitClassifier(12, 1), TrainingArguments(epochs=50), few, test, teacher_model=teacher.model)
    student.train()
    print(f"top1 {student.evaluate():.2f}")


if __name__ == "__main__":
    main()
