"""A distilling trainer with compute_loss, after the manner of the well-known one."""
import argparse
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


@dataclass
class TrainingArguments:
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 4
    learning_rate: float = 0.03
    num_train_epochs: int = 18
    temperature: float = 2.0
    alpha: float = 0.5


class TinyTransformer(nn.Module):
    def __init__(self, dim, heads, layers):
        super().__init__()
        self.embed = nn.Linear(8, dim)
        self.position = nn.Parameter(torch.randn(1, 8, dim) * 0.1)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, heads, 2 * dim, 0.0, batch_first=True, norm_first=True) for _ in range(layers)
        )
        self.classifier = nn.Linear(8 * dim, 10)

    def forward(self, rows, labels=None):
        h = self.embed(rows) + self.position
        for layer in self.layers:
            h = layer(h)
        logits = self.classifier(h.flatten(1))
        return {"logits": logits, "loss": None if labels is None else F.cross_entropy(logits, labels)}


class DistillTrainer:
    def __init__(self, model, teacher, args, train_dataset):
        self.model, self.teacher, self.args, self.train_dataset = model, teacher, args, train_dataset
        self.optimizer = torch.optim.SGD(model.parameters(), lr=args.learning_rate, momentum=0.9)

    def compute_loss(self, inputs):
        out = self.model(**inputs)
        with torch.no_grad():
            teacher_logits = self.teacher(inputs["rows"])["logits"]
        T = self.args.temperature
        kd = F.kl_div(
            F.log_softmax(out["logits"] / T, dim=-1), F.softmax(teacher_logits / T, dim=-1), reduction="batchmean"
        )
        return self.args.alpha * out["loss"] + (1 - self.args.alpha) * T * T * kd

    def training_step(self, inputs):
        loss = self.compute_loss(inputs)
        loss.backward()
        return loss.detach()

    def train(self):
        self.model.train()
        self.teacher.eval()
        rows, labels = self.train_dataset
        for _ in range(self.args.num_train_epochs):
            batches = torch.randperm(len(rows)).split(self.args.per_device_train_batch_size)
            for step, i in enumerate(batches):
                self.training_step({"rows": rows[i], "labels": labels[i]})
                if (step + 1) % self.args.gradient_accumulation_steps == 0 or step + 1 == len(batches):
                    self.optimizer.step()
                    self.optimizer.zero_grad()

    @torch.no_grad()
    def evaluate(self, rows, labels):
        self.model.eval()
        return 100 * (self.model(rows)["logits"].argmax(-1) == labels).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(66))
    x, y = x[p], y[p]
    teacher = TinyTransformer(32, 4, 2)
    opt = torch.optim.Adam(teacher.parameters(), lr=5e-3)
    for _ in range(8):
        for i in torch.randperm(1100).split(64):
            opt.zero_grad()
            teacher(x[i], y[i])["loss"].backward()
            opt.step()
    trainer = DistillTrainer(TinyTransformer(16, 2, 1), teacher, TrainingArguments(), (x[:256], y[:256]))
    trainer.train()
    print(f"top1 {trainer.evaluate(x[1100:], y[1100:]):.2f}")


if __name__ == "__main__":
    main()
