"""Models of the clinic's own, named in its recipes as ``clinic_models:NAME``: correct and faulty ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillroom.models.config import ModelConfig
from stillroom.models.registry import build


def _zoo(model: str, num_classes: int, in_channels: int, image_size: int | None, **options: Any) -> nn.Module:
    config = ModelConfig(name=model, options=options)
    return build(config, num_classes=num_classes, in_channels=in_channels, image_size=image_size)


class _Around(nn.Module):
    """Another model, whose weights go by their own names."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


class _Probabilities(_Around):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).softmax(1)


class _LogProbabilities(_Around):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).log_softmax(1)


class _Training(_Around):
    """Batch norms and dropout that nobody can bring into evaluation mode."""

    def train(self, mode: bool = True) -> _Training:
        return super().train(True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner.train()(x)


class _OneColour(_Around):
    """Looks at one channel, and passes by what the others show."""

    def __init__(self, inner: nn.Module, channel: int) -> None:
        super().__init__(inner)
        self.channel = channel

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x[:, self.channel : self.channel + 1])


class _Shifted(_Around):
    """The same weights, other code: what a cache cannot know."""

    def forward(self, x: Tensor) -> Tensor:
        # The file next to the weights says whether the code has changed since.
        return self.inner(x).roll(1, 1) if Path(self.mark).exists() else self.inner(x)


def probabilities(model: str, num_classes: int, in_channels: int, image_size: int | None, **options: Any) -> nn.Module:
    """A model that ends in a softmax."""
    return _Probabilities(_zoo(model, num_classes, in_channels, image_size, **options))


def log_probabilities(
    model: str, num_classes: int, in_channels: int, image_size: int | None, **options: Any
) -> nn.Module:
    """A model that ends in a log-softmax: its answers are logits as good as any."""
    return _LogProbabilities(_zoo(model, num_classes, in_channels, image_size, **options))


def training_mode(model: str, num_classes: int, in_channels: int, image_size: int | None, **options: Any) -> nn.Module:
    """A model that stays in training mode."""
    return _Training(_zoo(model, num_classes, in_channels, image_size, **options))


def one_colour(
    model: str, channel: int, num_classes: int, in_channels: int, image_size: int | None, **options: Any
) -> nn.Module:
    """A model of one of three colours."""
    return _OneColour(_zoo(model, num_classes, 1, image_size, **options), channel)


def marked(
    model: str, mark: str, num_classes: int, in_channels: int, image_size: int | None, **options: Any
) -> nn.Module:
    """A model whose code changes once the file ``mark`` is there."""
    made = _Shifted(_zoo(model, num_classes, in_channels, image_size, **options))
    made.mark = mark
    return made


class _Shuffle(nn.Module):
    """ShuffleNet's unit: a grouped 1×1, channels shuffled, a depthwise 3×3, a grouped 1×1, around a shortcut."""

    def __init__(self, before: int, after: int, groups: int, stride: int) -> None:
        super().__init__()
        self.groups, self.stride = groups, stride
        grown = after - before if stride == 2 else after
        middle = max(grown // 4, groups)
        middle -= middle % groups
        self.first = nn.Conv2d(before, middle, 1, groups=groups, bias=False)
        self.norm1 = nn.BatchNorm2d(middle)
        self.depth = nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False)
        self.norm2 = nn.BatchNorm2d(middle)
        self.last = nn.Conv2d(middle, grown, 1, groups=groups, bias=False)
        self.norm3 = nn.BatchNorm2d(grown)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.first(x)))
        b, c, h, w = y.shape
        y = y.view(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, c, h, w)
        y = self.norm3(self.last(self.norm2(self.depth(y))))
        if self.stride == 2:
            return F.relu(torch.cat([y, F.avg_pool2d(x, 3, 2, 1)], 1))
        return F.relu(y + x)


class ShuffleNet(nn.Module):
    """A small ShuffleNet: a stem, three stages of units, pooling, a linear layer."""

    def __init__(self, num_classes: int, in_channels: int, width: int, groups: int, units: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        stages, channels = [], width
        for _ in range(2):
            stages.append(_Shuffle(channels, 2 * channels, groups, 2))
            channels *= 2
            stages += [_Shuffle(channels, channels, groups, 1) for _ in range(units)]
        self.stages = nn.Sequential(*stages)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(F.relu(self.norm(self.stem(x))))
        return self.linear(x.mean((2, 3)))


def shufflenet(num_classes: int, in_channels: int, width: int = 16, groups: int = 4, units: int = 1) -> nn.Module:
    """A ShuffleNet (Zhang et al., arXiv 1707.01083) for small images."""
    return ShuffleNet(num_classes, in_channels, width, groups, units)


def zoo(model: str, num_classes: int, in_channels: int, image_size: int | None, **options: Any) -> nn.Module:
    """A built-in model."""
    config = ModelConfig(name=model, options=options)
    return build(config, num_classes=num_classes, in_channels=in_channels, image_size=image_size)


class _Sigmoid(nn.Module):
    """Each class by itself, as where an image may have several."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).sigmoid()


class _OfLength(nn.Module):
    """Logits of one length, as where a head compares directions and multiplies by a scale."""

    def __init__(self, inner: nn.Module, length: float) -> None:
        super().__init__()
        self.inner, self.length = inner, length

    def forward(self, x: Tensor) -> Tensor:
        z = self.inner(x)
        z = z - z.mean(1, keepdim=True)
        return self.length * z / z.norm(dim=1, keepdim=True)


class _Two(nn.Module):
    """The mean of two models' logits."""

    def __init__(self, one: nn.Module, two: nn.Module) -> None:
        super().__init__()
        self.one, self.two = one, two

    def forward(self, x: Tensor) -> Tensor:
        return (self.one(x) + self.two(x)) / 2


class _Shifts(nn.Module):
    """The mean of the logits of an image and of it a pixel to either side."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.inner(x.roll(shift, 3)) for shift in (-1, 0, 1)]).mean(0)


def sigmoid(model: str, num_classes: int, in_channels: int, image_size: int | None, **options: Any) -> nn.Module:
    """A model that ends in a sigmoid."""
    return _Sigmoid(zoo(model, num_classes, in_channels, image_size, **options))


def of_length(
    model: str, length: float, num_classes: int, in_channels: int, image_size: int | None, **options: Any
) -> nn.Module:
    """A model whose logits all have one length."""
    return _OfLength(zoo(model, num_classes, in_channels, image_size, **options), length)


def two(
    model: str, other: str, num_classes: int, in_channels: int, image_size: int | None, **options: Any
) -> nn.Module:
    """Two models that answer together."""
    one = zoo(model, num_classes, in_channels, image_size, **options)
    return _Two(one, zoo(other, num_classes, in_channels, image_size, **options))


def shifts(model: str, num_classes: int, in_channels: int, image_size: int | None, **options: Any) -> nn.Module:
    """A model that looks three times."""
    return _Shifts(zoo(model, num_classes, in_channels, image_size, **options))
