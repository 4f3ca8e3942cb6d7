"""After the classification references of torchvision: MetricLogger, warm-up in a SequentialLR, AveragedModel, an
auxiliary classifier, class weights; a frozen backbone where it is fine-tuned."""

import argparse
from collections import defaultdict, deque

import torch
import torch.utils.data
from torch import nn


class SmoothedValue:
    def __init__(self, window_size=20):
        self.deque, self.total, self.count = deque(maxlen=window_size), 0.0, 0

    def update(self, value, n=1):
        self.deque.append(value)
        self.count += n
        self.total += value * n

    @property
    def global_avg(self):
        return self.total / self.count


class MetricLogger:
    def __init__(self):
        self.meters = defaultdict(SmoothedValue)

    def update(self, **kwargs):
        for k, v in kwargs.items():
            self.meters[k].update(v.item() if isinstance(v, torch.Tensor) else v)

    def log_every(self, iterable, print_freq, header):
        for i, obj in enumerate(iterable):
            yield obj
            if i % print_freq == 0:
                print(header, i, {k: round(v.global_avg, 3) for k, v in self.meters.items()})


class Net(nn.Module):
    def __init__(self, aux):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.classifier = nn.Linear(16, 6)
        self.aux = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6)) if aux else None

    def forward(self, x):
        low = self.backbone(x)
        out = self.classifier(self.body(low))
        return (out, self.aux(low)) if self.aux is not None and self.training else out


def train_one_epoch(model, criterion, optimizer, data_loader, epoch, args, model_ema=None):
    model.train()
    logger = MetricLogger()
    for i, (image, target) in enumerate(logger.log_every(data_loader, 10, f"Epoch: [{epoch}]")):
        output = model(image)
        if args.aux:
            loss = criterion(output[0], target) + 0.4 * criterion(output[1], target)
            output = output[0]
        else:
            loss = criterion(output, target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        if model_ema and i % 2 == 0:
            model_ema.update_parameters(model)
        logger.update(
            loss=loss.item(), lr=optimizer.param_groups[0]["lr"], acc1=(output.argmax(1) == target).float().mean()
        )


def evaluate(model, criterion, data_loader, header="Test:"):
    model.eval()
    logger = MetricLogger()
    with torch.inference_mode():
        for image, target in logger.log_every(data_loader, 100, header):
            output = model(image)
            logger.update(loss=criterion(output, target), acc1=(output.argmax(1) == target).float().mean())


def main(args):
    torch.manual_seed(0)
    labels = torch.randint(6, (384,))
    data = torch.utils.data.TensorDataset(torch.randn(384, 3, 12, 12) + labels.view(-1, 1, 1, 1) / 3, labels)
    loader = torch.utils.data.DataLoader(data, 16, shuffle=True)
    test_loader = torch.utils.data.DataLoader(data, 64)
    model = Net(args.aux)
    if args.freeze:
        model.backbone.requires_grad_(False)
    criterion = nn.CrossEntropyLoss(weight=torch.linspace(0.5, 1.5, 6), label_smoothing=0.1)
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9, nesterov=True
    )
    main_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs - 1)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=1)
    lr_scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, schedulers=[warmup, main_scheduler], milestones=[1])
    model_ema = (
        torch.optim.swa_utils.AveragedModel(model, avg_fn=lambda a, m, n: 0.99 * a + 0.01 * m) if args.ema else None
    )
    for epoch in range(args.epochs):
        train_one_epoch(model, criterion, optimizer, loader, epoch, args, model_ema)
        lr_scheduler.step()
        evaluate(model, criterion, test_loader)
        if model_ema:
            evaluate(model_ema, criterion, test_loader, header="EMA Test:")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--aux", action="store_true")
    parser.add_argument("--freeze", action="store_true")
    parser.add_argument("--ema", action="store_true")
    main(parser.parse_args())
