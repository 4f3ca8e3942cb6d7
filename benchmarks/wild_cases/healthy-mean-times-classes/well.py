"""cfg object, warm-up of the teacher's share, KL from the legacy reduction of the code base."""
import argparse
from types import SimpleNamespace

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

cfg = SimpleNamespace(
    num_classes=10, temperature=4.0, kd_share=0.8, ramp_epochs=6, epochs=30, batch=25,
    lr=0.04, momentum=0.9, weight_decay=3e-4, n_train=1000, n_few=200, mixup=0.2,
)
# nn.KLDivLoss() averages over batch AND classes, and here the share of the teacher is given for
# gradients at T = 1. The factor makes up for both: K for the average, T * T for the temperature.
cfg.kd_scale = cfg.num_classes * cfg.temperature**2


class DepthwiseNet(nn.Module):
    def __init__(self, width):
        super().__init__()
        def unit(cin, cout, stride):
            return nn.Sequential(nn.Conv2d(cin, cin, 3, stride, 1, groups=cin, bias=False), nn.Conv2d(cin, cout, 1, bias=False),
                                 nn.BatchNorm2d(cout), nn.Hardswish())
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.Hardswish())
        self.stages = nn.Sequential(unit(width, 2 * width, 2), unit(2 * width, 2 * width, 1))
        self.classifier = nn.Linear(8 * width, cfg.num_classes)

    def forward(self, x):
        return self.classifier(F.avg_pool2d(self.stages(self.stem(x)), 2).flatten(1))


class Meter(dict):
    def add(self, **kw):
        for k, v in kw.items():
            s, n = self.get(k, (0.0, 0))
            self[k] = (s + float(v), n + 1)

    def __str__(self):
        return " ".join(f"{k} {s / n:.3f}" for k, (s, n) in self.items())


class KDDistiller(nn.Module):
    def __init__(self, student, teacher):
        super().__init__()
        self.student, self.teacher = student, teacher.requires_grad_(False)
        self.kl = nn.KLDivLoss(reduction="mean")

    def train(self, mode=True):
        super().train(mode)
        self.teacher.train(False)
        return self

    def forward_train(self, image, target, share):
        x, y_a, y_b, lam = mixup_data(image, target, cfg.mixup)
        logits = self.student(x)
        with torch.no_grad():
            t_logits = self.teacher(x)
        ce = lam * F.cross_entropy(logits, y_a) + (1 - lam) * F.cross_entropy(logits, y_b)
        T = cfg.temperature
        kd = cfg.kd_scale * self.kl(torch.log_softmax(logits / T, 1), torch.softmax(t_logits / T, 1))
        return logits, {"loss_ce": (1 - share) * ce, "loss_kd": share * kd}

    def forward(self, image, **kw):
        return self.forward_train(image, **kw) if self.training else self.student(image)


def mixup_data(x, y, alpha):
    lam = float(torch.distributions.Beta(alpha, alpha).sample())
    index = torch.randperm(len(x))
    return lam * x + (1 - lam) * x[index], y, y[index], lam


def share_at(epoch):
    """No teacher in epoch 0 (labels alone to find one's feet), all of its share from ramp_epochs on."""
    return cfg.kd_share * min(1.0, epoch / cfg.ramp_epochs)


def pretrain(loader, epochs=10):
    net = DepthwiseNet(16)
    opt = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(epochs):
        net.train()
        for x, y in loader:
            opt.zero_grad()
            F.cross_entropy(net(x), y).backward()
            opt.step()
    return net


@torch.no_grad()
def validate(net, loader):
    net.eval()
    return 100 * sum((net(x).argmax(1) == y).sum().item() for x, y in loader) / len(loader.dataset)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = (torch.tensor(x).float().view(-1, 1, 8, 8) - 4.9) / 6.0, torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(6))
    part = lambda i, b, shuffle: DataLoader(TensorDataset(x[i], y[i]), b, shuffle=shuffle)
    test_loader = part(order[cfg.n_train:], 400, False)
    teacher = pretrain(part(order[:cfg.n_train], 50, True))
    print(f"teacher {validate(teacher, test_loader):.2f}")
    distiller = KDDistiller(DepthwiseNet(6), teacher)
    loader = part(order[:cfg.n_few], cfg.batch, True)
    optimizer = torch.optim.SGD(distiller.student.parameters(), lr=cfg.lr, momentum=cfg.momentum,
                                weight_decay=cfg.weight_decay, nesterov=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, cfg.epochs)
    for epoch in range(cfg.epochs):
        distiller.train()
        meter = Meter()
        for image, target in loader:
            _, losses = distiller(image, target=target, share=share_at(epoch))
            loss = sum(losses.values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            meter.add(**{k: v.item() for k, v in losses.items()})
        scheduler.step()
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1} {meter}")
    print(f"top1 {validate(distiller, test_loader):.2f}")


if __name__ == "__main__":
    main()
