"""A Trainer with compute_loss(model, inputs, return_outputs): accumulation, clipping, linear warm-up and decay, all per update."""
import argparse
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset


@dataclass
class ModelOutput:
    logits: torch.Tensor
    loss: torch.Tensor = None


@dataclass
class DistillationTrainingArguments:
    num_train_epochs: int = 15
    per_device_train_batch_size: int = 32
    gradient_accumulation_steps: int = 2
    learning_rate: float = 4e-3
    weight_decay: float = 0.01
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    alpha: float = 0.5
    temperature: float = 2.0


class DictDataset(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"pixel_values": self.x[i], "labels": self.y[i]}


class Classifier(nn.Module):
    def __init__(self, hidden, layers, dropout=0.1):
        super().__init__()
        self.embed = nn.Linear(64, hidden)
        self.layers = nn.ModuleList(nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, 2 * hidden), nn.GELU(),
                                                  nn.Linear(2 * hidden, hidden), nn.Dropout(dropout))
                                    for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.classifier = nn.Linear(hidden, 10)

    def forward(self, pixel_values, labels=None):
        h = self.embed(pixel_values)
        for layer in self.layers:
            h = h + layer(h)
        logits = self.classifier(self.norm(h))
        loss = F.cross_entropy(logits, labels) if labels is not None else None
        return ModelOutput(logits=logits, loss=loss)


def get_linear_schedule_with_warmup(optimizer, num_warmup_steps, num_training_steps):
    def lr_lambda(current_step):
        if current_step < num_warmup_steps:
            return float(current_step + 1) / float(max(1, num_warmup_steps))
        return max(0.0, float(num_training_steps - current_step) / float(max(1, num_training_steps - num_warmup_steps)))
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lr_lambda)


class Trainer:
    def __init__(self, model, args, train_dataset, eval_dataset):
        self.model, self.args = model, args
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset

    def compute_loss(self, model, inputs, return_outputs=False):
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def create_optimizer_and_scheduler(self, num_training_steps):
        decay = [p for n, p in self.model.named_parameters() if p.ndim > 1]
        no_decay = [p for n, p in self.model.named_parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": self.args.weight_decay},
                                            {"params": no_decay, "weight_decay": 0.0}], lr=self.args.learning_rate)
        self.lr_scheduler = get_linear_schedule_with_warmup(
            self.optimizer, int(self.args.warmup_ratio * num_training_steps), num_training_steps)

    def training_step(self, model, inputs):
        model.train()
        loss = self.compute_loss(model, inputs)
        loss = loss / self.args.gradient_accumulation_steps
        loss.backward()
        return loss.detach()

    def train(self):
        a = self.args
        loader = DataLoader(self.train_dataset, batch_size=a.per_device_train_batch_size, shuffle=True, drop_last=True)
        updates_per_epoch = len(loader) // a.gradient_accumulation_steps
        assert len(loader) % a.gradient_accumulation_steps == 0
        self.create_optimizer_and_scheduler(updates_per_epoch * a.num_train_epochs)
        self.model.zero_grad()
        for epoch in range(a.num_train_epochs):
            tr_loss = 0.0
            for step, inputs in enumerate(loader):
                tr_loss += self.training_step(self.model, inputs).item()
                if (step + 1) % a.gradient_accumulation_steps == 0:
                    torch.nn.utils.clip_grad_norm_(self.model.parameters(), a.max_grad_norm)
                    self.optimizer.step()
                    self.lr_scheduler.step()
                    self.model.zero_grad()
            print({"epoch": epoch + 1, "loss": round(tr_loss / updates_per_epoch, 4), **self.evaluate()})

    @torch.no_grad()
    def evaluate(self):
        self.model.eval()
        right = 0
        for inputs in DataLoader(self.eval_dataset, batch_size=128):
            labels = inputs.pop("labels")
            right += (self.model(**inputs).logits.argmax(-1) == labels).sum().item()
        return {"eval_accuracy": right / len(self.eval_dataset)}


class DistillationTrainer(Trainer):
    def __init__(self, *args, teacher_model=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = teacher_model
        self.teacher.eval()

    def compute_loss(self, model, inputs, return_outputs=False):
        outputs_stu = model(**inputs)
        # Extract cross-entropy loss and logits from student
        loss_ce = outputs_stu.loss
        logits_stu = outputs_stu.logits
        # Extract logits from teacher
        with torch.no_grad():
            outputs_tea = self.teacher(**inputs)
            logits_tea = outputs_tea.logits
        # Soften probabilities and compute distillation loss
        loss_fct = nn.KLDivLoss(reduction="batchmean")
        loss_kd = self.args.temperature ** 2 * loss_fct(
            F.log_softmax(logits_stu / self.args.temperature, dim=-1),
            F.softmax(logits_tea / self.args.temperature, dim=-1))
        # Return weighted student loss
        loss = self.args.alpha * loss_ce + (1. - self.args.alpha) * loss_kd
        return (loss, outputs_stu) if return_outputs else loss


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    cli = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(cli.seed)
    x, y = load_digits(return_X_y=True)
    x, y = (torch.tensor(x, dtype=torch.float32) - 4.88) / 6.02, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(31))
    train_dataset, eval_dataset = DictDataset(x[p[:1280]], y[p[:1280]]), DictDataset(x[p[1280:]], y[p[1280:]])

    teacher = Classifier(96, 3)
    Trainer(teacher, DistillationTrainingArguments(num_train_epochs=10, learning_rate=2e-3), train_dataset, eval_dataset).train()

    student = Classifier(24, 1)
    trainer = DistillationTrainer(student, DistillationTrainingArguments(), train_dataset, eval_dataset, teacher_model=teacher)
    trainer.train()
    print("top1 %.2f" % (100 * trainer.evaluate()["eval_accuracy"]))


if __name__ == "__main__":
    main()
