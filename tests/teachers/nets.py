"""A teacher small enough to be asked often: a convolution and its batch norm, and twelve columns for five classes."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from stillroom.models.config import PreprocessConfig
from stillroom.models.preprocess import Preprocess
from stillroom.teachers.tails import TeacherTail, cut_tails

ORDER = (11, 2, 7, 0, 5)
CPU = torch.device("cpu")


class Net(nn.Module):
    """Taps at each resolution; with ``branches``, its first step depends on values and cannot be traced."""

    def __init__(self, columns: int = 12, *, branches: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), nn.Tanh())
        self.head = nn.Linear(6, columns)
        self.branches = branches

    def forward(self, x: Tensor) -> Tensor:
        if self.branches and float(x.sum()) > 1e9:
            x = -x
        logits: Tensor = self.head(self.down(self.stem(x)).mean((2, 3)))
        return logits


def net(**options: Any) -> Net:
    """With weights of its own, and batch norms that have seen something."""
    torch.manual_seed(0)
    made = Net(**options)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2.0)
    with torch.no_grad():
        made.head.weight.mul_(3)
    return made


def images(count: int = 6) -> Tensor:
    return torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def pipe(order: tuple[int, ...] | None = ORDER) -> Preprocess:
    return Preprocess(PreprocessConfig(mean=(0.5,), std=(0.5,), class_order=order))


@cache
def tails(branches: bool = False) -> dict[str, TeacherTail]:
    return cut_tails(net(branches=branches), pipe(), ["stem", "down", "features"], example=images(4), device=CPU)
