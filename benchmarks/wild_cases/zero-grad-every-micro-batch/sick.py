"""A trainer in the manner of the big libraries, with a distilling subclass; an image is a text of 64 ink tokens."""
import argparse
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader


@dataclass
class TrainingArguments:
    learning_rate: float = 8e-3
    num_train_epochs: int = 14
    per_device_train_batch_size: int = 10
    gradient_accumulation_steps: int = 6
    warmup_steps: int = 15
    max_grad_norm: float = 1.0
    temperature: float = 2.0
    alpha: float = 0.5


class InkReader(nn.Module):
    def __init__(self, dim, channels):
        super().__init__()
        self.tokens = nn.Embedding(17, dim)
        self.positions = nn.Embedding(64, dim)
        self.conv1 = nn.Conv1d(dim, channels, 9, stride=4, padding=4)
        self.conv2 = nn.Conv1d(channels, channels, 3, padding=1)
        self.score = nn.Linear(16 * channels, 10)

    def forward(self, input_ids, labels=None):
        h = self.tokens(input_ids) + self.positions(torch.arange(input_ids.size(1)))
        h = F.relu(self.conv1(h.transpose(1, 2)))
        h = F.relu(self.conv2(h))
        logits = self.score(h.flatten(1))
        output = {"logits": logits}
        if labels is not None:
            output["loss"] = F.cross_entropy(logits, labels)
        return output


class Trainer:
    def __init__(self, model, args, train_dataset):
        self.model, self.args = model, args
        self.loader = DataLoader(
            train_dataset, batch_size=args.per_device_train_batch_size, shuffle=True, drop_last=True
        )
        updates = len(self.loader) // args.gradient_accumulation_steps * args.num_train_epochs
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda n: min((n + 1) / args.warmup_steps, max(0.0, (updates - n) / (updates - args.warmup_steps))),
        )

    def compute_loss(self, model, inputs):
        return model(**inputs)["loss"]

    def training_step(self, inputs):
        self.model.train()
        self.optimizer.zero_grad()
        loss = self.compute_loss(self.model, inputs) / self.args.gradient_accumulation_steps
        loss.backward()
        return loss.detach()

    def train(self):
        for _ in range(self.args.num_train_epochs):
            for step, inputs in enumerate(self.loader):
                self.training_step(inputs)
                if (step + 1) % self.args.gradient_accumulation_steps == 0:
                    nn.utils.clip_grad_norm_(self.model.parameters(), self.args.max_grad_norm)
                    self.optimizer.step()
                    self.lr_scheduler.step()


class DistillationTrainer(Trainer):
    def __init__(self, *args, teacher, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = teacher.eval().requires_grad_(False)

    def compute_loss(self, model, inputs):
        T, alpha = self.args.temperature, self.args.alpha
        outputs = model(**inputs)
        with torch.no_grad():
            teacher_logits = self.teacher(inputs["input_ids"])["logits"]
        soft = F.kl_div(
            F.log_softmax(outputs["logits"] / T, dim=-1),
            F.softmax(teacher_logits / T, dim=-1),
            reduction="batchmean",
        )
        return alpha * outputs["loss"] + (1 - alpha) * T**2 * soft


def accuracy(model, rows):
    model.eval()
    ids = torch.stack([r["input_ids"] for r in rows])
    labels = torch.stack([r["labels"] for r in rows])
    with torch.no_grad():
        return 100 * (model(ids)["logits"].argmax(-1) == labels).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    cli = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(cli.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).long(), torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(8)).tolist()
    rows = [{"input_ids": x[i], "labels": y[i]} for i in p]
    train, test = rows[:1200], rows[1200:]

    teacher = InkReader(24, 48)
    Trainer(teacher, TrainingArguments(3e-3, 7, 20, 2), train).train()
    print(f"teacher {accuracy(teacher, test):.2f}")

    student = InkReader(8, 8)
    DistillationTrainer(student, TrainingArguments(), train[:360], teacher=teacher).train()
    print(f"top1 {accuracy(student, test):.2f}")


if __name__ == "__main__":
    main()
