"""The CIFAR ResNets of He et al. (2015), parameter-free shortcuts or learned ones: the numbers of the public tables."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn


class PadShortcut(nn.Module):
    """Shortcut of "option A": every second pixel, and zeros for the channels that are new. It has no parameters.

    Shapes: [B, in_channels, H, W] → [B, out_channels, ⌈H/stride⌉, ⌈W/stride⌉].

    Args:
        in_channels: channels of its input.
        out_channels: channels of its output; what is missing is split evenly before and after.
        stride: 2 takes every second pixel, 1 all of them.

    >>> import torch
    >>> PadShortcut(2, 4)(torch.ones(1, 2, 5, 5))[0, :, 0, 0].tolist()
    [0.0, 1.0, 1.0, 0.0]
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 2) -> None:
        super().__init__()
        self.stride = stride
        missing = out_channels - in_channels
        self.before = missing // 2
        self.after = missing - self.before

    def forward(self, x: Tensor) -> Tensor:
        # The same numbers as x[:, :, ::2, ::2], whose gradient would leave the channels-last layout: adding it to the
        # other branch's, and the ReLU before it, then take twenty times as long, a fifth of ResNet-8's whole step.
        kept = F.avg_pool2d(x, 1, stride=self.stride) if self.stride > 1 else x
        return F.pad(kept, (0, 0, 0, 0, self.before, self.after))


class GlobalAveragePool(nn.Module):
    """The mean over all pixels: [B, C, H, W] → [B, C, 1, 1]; its gradient keeps the input's memory layout.

    >>> import torch
    >>> GlobalAveragePool()(torch.tensor([[[[1.0, 3.0]]]])).tolist()
    [[[[2.0]]]]
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, x.shape[-2:])


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)).

    Shapes: [B, in_channels, H, W] → [B, out_channels, ⌈H/stride⌉, ⌈W/stride⌉].

    Args:
        in_channels: channels of its input.
        out_channels: channels of its output.
        stride: 1, or 2 to halve the resolution.
        projection: where the shape changes, the shortcut is a 1×1 convolution with its norm ("option B"), not
            pixels skipped and zeros added ("option A").
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, projection: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        # Neither these nor the sum below work in place: what a hook read of a module stays what the module gave.
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.shortcut = _shortcut(in_channels, out_channels, stride, projection)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out)) + self.shortcut(x)
        result: Tensor = self.relu2(out)
        return result


class ResNet(nn.Module):
    """A residual network of 6n+2 layers for small images (He et al. 2015, arXiv:1512.03385).

    One 3×3 convolution of ``stem`` channels, three stages of n blocks with ``width``, 2 ``width`` and 4 ``width``
    channels, the mean over all pixels, one linear layer. Shapes: [B, in_channels, H, W] → logits [B, num_classes];
    H and W of 8 or more. With ``penultimate=d`` the classifier is given relu(W·mean + b) ∈ ℝᵈ in place of the mean,
    and nothing else changes: for the same seed the layers before it begin with the same weights, whatever d is.

    ``ResNet(32, 100, width=64, stem=32, projection=True)`` is the resnet32x4 of the CRD benchmark (Tian et al. 2020,
    arXiv:1910.10699).

    Args:
        depth: number of weighted layers, 6n+2: 8, 14, 20, 32, 44, 56, 110.
        num_classes: number of logits.
        in_channels: channels of the images.
        width: channels of the first stage.
        stem: channels of the first convolution; left out: ``width``.
        projection: shortcuts where the shape changes are learned ("option B") rather than free of parameters.
        penultimate: width of the features that the classifier is given; left out: 4 ``width``, the mean itself.

    Raises:
        ValueError: ``depth`` is not 6n+2.

    >>> sum(p.numel() for p in ResNet(20).parameters())
    269722
    >>> ResNet(8, 100, penultimate=99).linear
    Linear(in_features=99, out_features=100, bias=True)
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        in_channels: int = 3,
        width: int = 16,
        *,
        stem: int | None = None,
        projection: bool = False,
        penultimate: int | None = None,
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth: got {depth}; expected 6n+2, such as 8, 20 or 56")
        blocks = (depth - 2) // 6
        stem = width if stem is None else stem
        self.conv1 = nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        self.layer1 = _stage(stem, width, blocks, stride=1, projection=projection)
        self.layer2 = _stage(width, 2 * width, blocks, stride=2, projection=projection)
        self.layer3 = _stage(2 * width, 4 * width, blocks, stride=2, projection=projection)
        self.pool = GlobalAveragePool()
        self.flatten = nn.Flatten()
        self.penultimate: nn.Module | None = None
        self.linear = nn.Linear(4 * width, num_classes)
        _initialise(self)
        if penultimate is not None:
            # Only now: what was drawn before is the same with and without it, so that widths can be compared.
            del self.linear
            self.penultimate = nn.Sequential(OrderedDict(linear=nn.Linear(4 * width, penultimate), relu=nn.ReLU()))
            self.linear = nn.Linear(penultimate, num_classes)
            _initialise(self.penultimate)
            _initialise(self.linear)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = self.flatten(self.pool(out))
        if self.penultimate is not None:
            out = self.penultimate(out)
        logits: Tensor = self.linear(out)
        return logits


def _initialise(part: nn.Module) -> None:
    for module in part.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int, projection: bool) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride, projection=projection)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))


def _shortcut(in_channels: int, out_channels: int, stride: int, projection: bool) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if not projection:
        return PadShortcut(in_channels, out_channels, stride)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )
