"""Keyword spotting on made-up spectra: eight frames of twelve bands, ten words. Losses are modules in a table."""
import argparse
import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOSSES = {}


def register(name):
    def keep(cls):
        LOSSES[name] = cls
        return cls

    return keep


@register("label")
class LabelLoss(nn.CrossEntropyLoss):
    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        return super().forward(student, target)


@register("soft")
class SoftLoss(nn.Module):
    def __init__(self, temperature: float = 3.0):
        super().__init__()
        self.temperature = temperature
        self.kl = nn.KLDivLoss(reduction="batchmean", log_target=True)

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        student = F.log_softmax(student / self.temperature, dim=-1)
        teacher = F.log_softmax(teacher / self.temperature, dim=-1)
        return self.kl(student, teacher) * self.temperature**2


class Sum(nn.Module):
    def __init__(self, spec: dict):
        super().__init__()
        self.terms = nn.ModuleDict({k: LOSSES[k](**options) for k, (_, options) in spec.items()})
        self.weights = {k: w for k, (w, _) in spec.items()}

    def forward(self, student, teacher, target):
        return sum(w * self.terms[k](student, teacher, target) for k, w in self.weights.items())


class Spotter(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv1d(12, channels, 3, padding=1)
        self.bn = nn.BatchNorm1d(channels)
        self.fc = nn.Linear(2 * channels, 10)

    def forward(self, spec: Tensor) -> Tensor:
        h = self.bn(self.conv(spec)).relu()
        return self.fc(torch.cat([h.mean(-1), h.amax(-1)], -1))


def words(n: int, seed: int):
    g = torch.Generator().manual_seed(900)
    form = torch.randn(10, 12, 8, generator=g) * 0.75
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(10, (n,), generator=g)
    shift = torch.randint(-1, 2, (n, 1), generator=g)
    frames = (torch.arange(8) + shift) % 8
    x = form[y].gather(2, frames[:, None].expand(n, 12, 8))
    return x + 1.1 * torch.randn(n, 12, 8, generator=g), y


def train(model, x, y, loss, teacher=None, steps=200, lr=0.01, size=40):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps)
    model.train()
    for step in range(steps):
        rows = torch.randint(len(x), (size,))
        with torch.no_grad():
            hints = teacher(x[rows]) if teacher else None
        value = loss(model(x[rows]), hints, y[rows])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        scheduler.step()
        if step % 100 == 0:
            print(f"step {step}: loss {value.item():.3f}", file=sys.stderr)
    return model.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--soft", type=float, default=1.0)
    ap.add_argument("--label", type=float, default=0.1)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = words(2000, a.seed + 1)
    xt, yt = words(1000, a.seed + 2000)

    @torch.no_grad()
    def top1(model):
        return 100 * (model(xt).argmax(-1) == yt).float().mean().item()

    teacher = train(Spotter(32), x, y, Sum({"label": (1.0, {})}))
    print(f"teacher {top1(teacher):.2f}")
    spec = {"label": (a.label, {}), "soft": (a.soft, {"temperature": 3.0})}
    student = train(Spotter(6), x[:200], y[:200], Sum(spec), teacher, steps=250)
    print(f"top1 {top1(student):.2f}")


if __name__ == "__main__":
    main()
