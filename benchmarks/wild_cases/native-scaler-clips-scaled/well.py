"""timm-like train script: native AMP scaler, clipping, soft targets from a bigger model."""
import argparse
import logging
from collections import OrderedDict
from contextlib import nullcontext

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

_logger = logging.getLogger("train")


class NativeScaler:
    state_dict_key = "amp_scaler"

    def __init__(self, init_scale=2.0**16):
        self._scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)

    def __call__(self, loss, optimizer, clip_grad=None, parameters=None):
        self._scaler.scale(loss).backward()
        if clip_grad is not None:
            self._scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, clip_grad)
        self._scaler.step(optimizer)
        self._scaler.update()

    def state_dict(self):
        return self._scaler.state_dict()


class ConvMlp(nn.Module):
    def __init__(self, dims, num_classes=10, drop_rate=0.0):
        super().__init__()
        layers, prev = [], 1
        for i, d in enumerate(dims):
            layers += [nn.Conv2d(prev, d, 3, 1 if i == 0 else 2, 1), nn.GroupNorm(1, d), nn.SiLU()]
            prev = d
        self.features = nn.Sequential(*layers)
        self.drop_rate = drop_rate
        self.head = nn.Linear(prev, num_classes)

    def forward(self, x):
        x = self.features(x).mean((2, 3))
        return self.head(F.dropout(x, self.drop_rate, self.training))


_entrypoints = {"convmlp_base": dict(dims=(16, 32, 64)), "convmlp_tiny": dict(dims=(6, 10))}


def create_model(model_name, **kwargs):
    return ConvMlp(**{**_entrypoints[model_name], **kwargs})


class SoftTargetDistillLoss(nn.Module):
    def __init__(self, teacher, tau, distill_weight, smoothing):
        super().__init__()
        self.base = nn.CrossEntropyLoss(label_smoothing=smoothing)
        self.tau, self.weight = tau, distill_weight
        self._teacher = [teacher]

    def forward(self, inputs, outputs, labels):
        with torch.no_grad():
            teacher_outputs = self._teacher[0](inputs).float()
        T = self.tau
        soft = F.kl_div(F.log_softmax(outputs / T, 1), F.log_softmax(teacher_outputs / T, 1),
                        reduction="sum", log_target=True) * (T * T) / outputs.size(0)
        return self.base(outputs, labels) * (1 - self.weight) + soft * self.weight


def adjust_learning_rate(optimizer, epoch, args):
    """Linear warm-up by epochs, then steps down."""
    if epoch < args.warmup_epochs:
        lr = args.lr * (epoch + 1) / args.warmup_epochs
    else:
        lr = args.lr * 0.3 ** sum(epoch >= m for m in args.decay_milestones)
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


def train_one_epoch(epoch, model, batches, optimizer, loss_fn, args, loss_scaler, amp_autocast=nullcontext):
    lr = adjust_learning_rate(optimizer, epoch, args)
    model.train()
    losses = []
    for x, target in batches:
        with amp_autocast():
            output = model(x)
        loss = loss_fn(x, output.float(), target)
        optimizer.zero_grad()
        loss_scaler(loss, optimizer, clip_grad=args.clip_grad, parameters=model.parameters())
        losses.append(loss.item())
    return OrderedDict(loss=sum(losses) / len(losses), lr=lr)


@torch.no_grad()
def validate(model, x, y):
    model.eval()
    return OrderedDict(top1=(model(x).argmax(1) == y).float().mean().item() * 100)


def fit_teacher(x, y, epochs=8):
    teacher = create_model("convmlp_base", drop_rate=0.1)
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=4e-3)
    for _ in range(epochs):
        for i in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(teacher(x[i]), y[i]).backward()
            optimizer.step()
    return teacher.eval()


def main():
    parser = argparse.ArgumentParser(description="distill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=45)
    parser.add_argument("--batch-size", type=int, default=25)
    parser.add_argument("--lr", type=float, default=0.15)
    parser.add_argument("--clip-grad", type=float, default=2.0)
    parser.add_argument("--warmup-epochs", type=int, default=3)
    parser.add_argument("--decay-milestones", type=int, nargs="+", default=[30, 40])
    parser.add_argument("--smoothing", type=float, default=0.05)
    parser.add_argument("--amp", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    digits = load_digits()
    x, y = torch.tensor(digits.images).float().unsqueeze(1).div(16).sub(0.3).div(0.38), torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(21))
    train, few, test = order[:1100], order[:250], order[1100:]
    teacher = fit_teacher(x[train], y[train])
    _logger.info("teacher %.2f", validate(teacher, x[test], y[test])["top1"])
    model = create_model("convmlp_tiny")
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, nesterov=True, weight_decay=1e-4)
    loss_fn = SoftTargetDistillLoss(teacher, tau=2.0, distill_weight=0.8, smoothing=args.smoothing)
    loss_scaler = NativeScaler()
    autocast = (lambda: torch.autocast("cpu", torch.bfloat16)) if args.amp else nullcontext
    for epoch in range(args.epochs):
        batches = [(x[few[i]], y[few[i]]) for i in torch.randperm(len(few)).split(args.batch_size)]
        metrics = train_one_epoch(epoch, model, batches, optimizer, loss_fn, args, loss_scaler, autocast)
        if epoch % 15 == 14:
            _logger.info("epoch %d loss %.3f lr %.4f", epoch, metrics["loss"], metrics["lr"])
    print(f"top1 {validate(model, x[test], y[test])['top1']:.2f}")


if __name__ == "__main__":
    main()
