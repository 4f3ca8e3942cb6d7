"""Models of the fresh kinds, named in their recipes as ``clinic_fresh_models:NAME``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stillroom.models.config import ModelConfig
from stillroom.models.registry import build


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
