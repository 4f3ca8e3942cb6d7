"""timm-like: Mixup makes soft targets, SoftTargetCrossEntropy reads them, the teacher sees the same mixed images."""
import argparse
import math

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def one_hot(x, num_classes, on_value=1., off_value=0.):
    x = x.long().view(-1, 1)
    return torch.full((x.size()[0], num_classes), off_value).scatter_(1, x, on_value)


def mixup_target(target, num_classes, lam=1., smoothing=0.0):
    off_value = smoothing / num_classes
    on_value = 1. - smoothing + off_value
    y1 = one_hot(target, num_classes, on_value=on_value, off_value=off_value)
    y2 = one_hot(target.flip(0), num_classes, on_value=on_value, off_value=off_value)
    return y1 * lam + y2 * (1. - lam)


class Mixup:
    def __init__(self, mixup_alpha=0.2, prob=1.0, label_smoothing=0.1, num_classes=10, seed=0):
        self.mixup_alpha, self.prob = mixup_alpha, prob
        self.label_smoothing, self.num_classes = label_smoothing, num_classes
        self.rng = np.random.RandomState(seed)

    def __call__(self, x, target):
        lam = 1.0
        if self.rng.rand() < self.prob:
            lam = float(self.rng.beta(self.mixup_alpha, self.mixup_alpha))
        x = x * lam + x.flip(0) * (1. - lam)
        return x, mixup_target(target, self.num_classes, lam, self.label_smoothing)


class SoftTargetCrossEntropy(nn.Module):
    def forward(self, x, target):
        loss = torch.sum(-target * F.log_softmax(x, dim=-1), dim=-1)
        return loss.mean()


class DistillationLoss(nn.Module):
    """Wraps a base criterion and adds the soft distillation term of a teacher."""

    def __init__(self, base_criterion, teacher_model, alpha, tau):
        super().__init__()
        self.base_criterion = base_criterion
        self.teacher_model = teacher_model
        self.alpha = alpha
        self.tau = tau

    def forward(self, inputs, outputs, labels):
        base_loss = self.base_criterion(outputs, labels)
        with torch.no_grad():
            teacher_outputs = self.teacher_model(inputs)
        T = self.tau
        distillation_loss = F.kl_div(
            F.log_softmax(outputs / T, dim=1),
            F.log_softmax(teacher_outputs / T, dim=1),
            reduction='sum', log_target=True) * (T * T) / outputs.shape[0]
        return base_loss * (1 - self.alpha) + distillation_loss * self.alpha


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.conv = nn.Conv2d(width, width * 2, 3, stride=2, padding=1)
        self.head = nn.Linear(width * 2 * 4, 10)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(self.conv(x))
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


class CosineLRScheduler:
    """Warm-up then cosine, by update."""

    def __init__(self, optimizer, t_initial, warmup_t, warmup_lr_init=1e-5, lr_min=1e-5):
        self.optimizer, self.t_initial, self.warmup_t = optimizer, t_initial, warmup_t
        self.warmup_lr_init, self.lr_min = warmup_lr_init, lr_min
        self.base = [g['lr'] for g in optimizer.param_groups]
        self.step_update(0)

    def step_update(self, num_updates):
        for g, base in zip(self.optimizer.param_groups, self.base):
            if num_updates < self.warmup_t:
                g['lr'] = self.warmup_lr_init + (base - self.warmup_lr_init) * (num_updates + 1) / self.warmup_t
            else:
                t = (num_updates - self.warmup_t) / max(1, self.t_initial - self.warmup_t)
                g['lr'] = self.lr_min + 0.5 * (base - self.lr_min) * (1 + math.cos(math.pi * min(t, 1.0)))


def train_one_epoch(model, x, y, optimizer, loss_fn, scheduler, num_updates, batch_size, mixup_fn=None):
    model.train()
    order = torch.randperm(len(x))
    for i in range(len(x) // batch_size):
        rows = order[i * batch_size:(i + 1) * batch_size]
        input, target = x[rows], y[rows]
        if mixup_fn is not None:
            input, target = mixup_fn(input, target)
        output = model(input)
        loss = loss_fn(input, output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        num_updates += 1
        scheduler.step_update(num_updates)
    return num_updates, loss.item()


@torch.no_grad()
def validate(model, x, y):
    model.eval()
    output = model(x)
    return {'loss': F.cross_entropy(output, y).item(), 'top1': 100 * (output.argmax(1) == y).float().mean().item()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--epochs', type=int, default=24)
    parser.add_argument('--lr', type=float, default=6e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    x, y = load_digits(return_X_y=True)
    x, y = (torch.tensor(x).float().view(-1, 1, 8, 8) / 16 - 0.3) / 0.38, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(55))
    xtr, ytr, xte, yte = x[p[:1344]], y[p[:1344]], x[p[1344:]], y[p[1344:]]
    batch_size = 64
    updates_per_epoch = len(xtr) // batch_size

    teacher = Net(24)
    opt = torch.optim.AdamW(teacher.parameters(), lr=3e-3, weight_decay=0.02)
    sched = CosineLRScheduler(opt, t_initial=12 * updates_per_epoch, warmup_t=updates_per_epoch)
    n = 0
    for _ in range(12):
        n, _ = train_one_epoch(teacher, xtr, ytr, opt, lambda i, o, t: F.cross_entropy(o, t), sched, n, batch_size)
    print('teacher', validate(teacher, xte, yte))
    teacher.eval()
    for q in teacher.parameters():
        q.requires_grad = False

    student = Net(6)
    optimizer = torch.optim.AdamW(student.parameters(), lr=args.lr, weight_decay=0.02)
    scheduler = CosineLRScheduler(optimizer, t_initial=args.epochs * updates_per_epoch, warmup_t=2 * updates_per_epoch)
    criterion = DistillationLoss(SoftTargetCrossEntropy(), teacher, alpha=0.5, tau=2.0)
    mixup_fn = Mixup(mixup_alpha=0.2, label_smoothing=0.1, seed=args.seed)
    n = 0
    for epoch in range(args.epochs):
        n, loss = train_one_epoch(student, xtr, ytr, optimizer, criterion, scheduler, n, batch_size, mixup_fn)
        metrics = validate(student, xte, yte)
        print(f"Train: {epoch} loss {loss:.4f} Test: loss {metrics['loss']:.4f} acc {metrics['top1']:.2f}")
    print(f"top1 {metrics['top1']:.2f}")


if __name__ == '__main__':
    main()
