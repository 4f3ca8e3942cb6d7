"""Accelerate loop: gradients of four micro-batches are summed, one cycle of the rate."""
import argparse
import math

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset, random_split


def get_args():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--num_train_epochs", type=int, default=24)
    p.add_argument("--per_device_train_batch_size", type=int, default=10)
    p.add_argument("--gradient_accumulation_steps", type=int, default=4)
    p.add_argument("--learning_rate", type=float, default=0.25)
    p.add_argument("--pct_start", type=float, default=0.3)
    p.add_argument("--temperature", type=float, default=2.0)
    p.add_argument("--alpha_ce", type=float, default=0.3)
    p.add_argument("--alpha_kd", type=float, default=0.7)
    p.add_argument("--max_grad_norm", type=float, default=5.0)
    return p.parse_args()


class RowGRU(nn.Module):
    """Reads the picture row by row."""

    def __init__(self, hidden, num_labels=10, dropout=0.0):
        super().__init__()
        self.rnn = nn.GRU(8, hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(4 * hidden, num_labels)

    def forward(self, pixel_values, labels=None):
        states, _ = self.rnn(pixel_values)
        pooled = torch.cat([states.mean(1), states.amax(1)], -1)
        logits = self.classifier(self.dropout(pooled))
        loss = F.cross_entropy(logits, labels) if labels is not None else None
        return {"loss": loss, "logits": logits}


def make_data(seed):
    raw = load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32) / 16
    images = (images - images.mean()) / images.std()
    data = TensorDataset(images, torch.tensor(raw.target))
    return random_split(data, [1000, 797], generator=torch.Generator().manual_seed(7))


def train_teacher(loader, epochs=7):
    teacher = RowGRU(32, dropout=0.1)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=5e-3)
    for _ in range(epochs):
        for images, labels in loader:
            loss = teacher(images, labels)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return teacher


def evaluate(model, loader):
    model.eval()
    correct = total = 0
    for images, labels in loader:
        with torch.no_grad():
            preds = model(images)["logits"].argmax(-1)
        correct += (preds == labels).sum().item()
        total += len(labels)
    return 100 * correct / total


def distillation_loss(student_logits, teacher_logits, T):
    return F.kl_div(
        F.log_softmax(student_logits / T, dim=-1), F.softmax(teacher_logits / T, dim=-1), reduction="batchmean"
    ) * (T * T)


def build_optimizer(model, steps_per_epoch, args):
    optimizer = torch.optim.SGD(model.parameters(), lr=args.learning_rate, momentum=0.9, weight_decay=1e-4)
    num_update_steps_per_epoch = math.ceil(steps_per_epoch / args.gradient_accumulation_steps)
    max_train_steps = args.num_train_epochs * num_update_steps_per_epoch
    scheduler = OneCycleLR(optimizer, max_lr=args.learning_rate, total_steps=max_train_steps,
                           pct_start=args.pct_start, div_factor=25, final_div_factor=100)
    return optimizer, scheduler


def train(model, teacher, loader, optimizer, scheduler, accelerator, args):
    teacher.eval()
    for epoch in range(args.num_train_epochs):
        model.train()
        running, updates = 0.0, 0
        for step, (images, labels) in enumerate(loader):
            with torch.no_grad():
                teacher_logits = teacher(images)["logits"]
            outputs = model(images, labels)
            loss_kd = distillation_loss(outputs["logits"], teacher_logits, args.temperature)
            loss = args.alpha_ce * outputs["loss"] + args.alpha_kd * loss_kd
            accelerator.backward(loss / args.gradient_accumulation_steps)
            running += loss.item() / len(loader)
            if (step + 1) % args.gradient_accumulation_steps == 0 or step + 1 == len(loader):
                accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                updates += 1
        if epoch % 6 == 5:
            accelerator.print(f"epoch {epoch + 1} loss {running:.3f} updates {updates} lr {optimizer.param_groups[0]['lr']:.4f}")


def main():
    args = get_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    accelerator = Accelerator(cpu=True)
    train_set, test_set = make_data(args.seed)
    teacher = train_teacher(DataLoader(train_set, 40, shuffle=True))
    test_loader = DataLoader(test_set, 400)
    print(f"teacher {evaluate(teacher, test_loader):.2f}")
    few, _ = random_split(train_set, [200, 800], generator=torch.Generator().manual_seed(args.seed))
    loader = DataLoader(few, args.per_device_train_batch_size, shuffle=True)
    model = RowGRU(8)
    optimizer, scheduler = build_optimizer(model, len(loader), args)
    model, loader = accelerator.prepare(model, loader)
    train(model, teacher, loader, optimizer, scheduler, accelerator, args)
    print(f"top1 {evaluate(accelerator.unwrap_model(model), test_loader):.2f}")


if __name__ == "__main__":
    main()
