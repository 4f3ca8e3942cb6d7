"""After the training scripts of timm: mixup, label smoothing, weights' moving average, gradient scaler, clipping,
accumulation, a cosine schedule per update, evaluation of the average."""

import argparse
import copy
import math
from contextlib import suppress
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--mixup", type=float, default=0.2)
parser.add_argument("--smoothing", type=float, default=0.1)
parser.add_argument("--model-ema", action="store_true", default=True)
parser.add_argument("--amp", action="store_true")
parser.add_argument("--grad-accum-steps", type=int, default=2)
parser.add_argument("--clip-grad", type=float, default=1.0)
parser.add_argument("--bce", action="store_true")


class SoftTargetCrossEntropy(nn.Module):
    def forward(self, x, target):
        return torch.sum(-target * F.log_softmax(x, dim=-1), dim=-1).mean()


class ModelEmaV3(nn.Module):
    def __init__(self, model, decay=0.99):
        super().__init__()
        self.module = copy.deepcopy(model)
        self.module.eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model):
        for ema_v, model_v in zip(self.module.state_dict().values(), model.state_dict().values()):
            if ema_v.is_floating_point():
                ema_v.lerp_(model_v, weight=1.0 - self.decay)
            else:
                ema_v.copy_(model_v)


def mixup_target(target, classes, lam, smoothing):
    off = smoothing / classes
    y = torch.full((len(target), classes), off).scatter_(1, target.view(-1, 1), 1.0 - smoothing + off)
    return y * lam + y.flip(0) * (1.0 - lam)


def make_net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(32, 10),
    )


def validate(model, loader, loss_fn, log_suffix=""):
    model.eval()
    correct = total = 0
    with torch.inference_mode():
        for input, target in loader:
            output = model(input)
            loss = loss_fn(output, target)
            correct += (output.argmax(1) == target).sum().item()
            total += len(target)
    print("Test" + log_suffix, 100.0 * correct / total)


def main():
    args = parser.parse_args()
    torch.manual_seed(42)
    labels = torch.randint(10, (480,))
    images = torch.randn(480, 3, 12, 12) * 0.5 + labels.view(-1, 1, 1, 1) / 5
    data = torch.utils.data.TensorDataset(images, labels)
    loader_train = torch.utils.data.DataLoader(data, 16, shuffle=True, drop_last=True)
    loader_eval = torch.utils.data.DataLoader(data, 64)
    model = make_net()
    decay = [p for p in model.parameters() if p.ndim > 1]
    no_decay = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": no_decay, "weight_decay": 0.0}], lr=2e-3
    )
    model_ema = ModelEmaV3(model) if args.model_ema else None
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0) if args.amp else None
    amp_autocast = partial(torch.autocast, "cpu", torch.bfloat16) if args.amp else suppress
    train_loss_fn = nn.BCEWithLogitsLoss() if args.bce else SoftTargetCrossEntropy()
    validate_loss_fn = nn.CrossEntropyLoss()
    updates = args.epochs * len(loader_train) // args.grad_accum_steps
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 0.5 * (1 + math.cos(math.pi * i / updates)))
    for epoch in range(args.epochs):
        model.train()
        optimizer.zero_grad()
        for batch_idx, (input, target) in enumerate(loader_train):
            need_update = (batch_idx + 1) % args.grad_accum_steps == 0
            lam = float(torch.distributions.Beta(args.mixup, args.mixup).sample())
            input = input * lam + input.flip(0) * (1.0 - lam)
            target = mixup_target(target, 10, lam, args.smoothing)
            with amp_autocast():
                output = model(input)
                loss = train_loss_fn(output, target)
            loss = loss / args.grad_accum_steps
            if scaler is not None:
                scaler.scale(loss).backward()
                if need_update:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(model.parameters(), args.clip_grad)
                    scaler.step(optimizer)
                    scaler.update()
            else:
                loss.backward()
                if need_update:
                    nn.utils.clip_grad_norm_(model.parameters(), args.clip_grad)
                    optimizer.step()
            if need_update:
                optimizer.zero_grad()
                if model_ema is not None:
                    model_ema.update(model)
                scheduler.step()
        validate(model, loader_eval, validate_loss_fn)
        if model_ema is not None:
            validate(model_ema.module, loader_eval, validate_loss_fn, " (EMA)")


if __name__ == "__main__":
    main()
