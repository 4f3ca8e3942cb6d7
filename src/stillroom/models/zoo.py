"""The networks of the zoo: CIFAR ResNets, wide ResNets and VGGs, a perceptron, a small vision transformer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PadShortcut(nn.Module):
    """Shortcut of "option A": every second pixel, and zeros for the channels that are new. It has no parameters.

    Shapes: [B, in_channels, H, W] → [B, out_channels, ⌈H/stride⌉, ⌈W/stride⌉].

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


class PreActivationBlock(nn.Module):
    """h = relu(bn1(x)); conv2(relu(bn2(conv1(h)))) + x, or + a 1×1 convolution of h where the channels change.

    Shapes: [B, in_channels, H, W] → [B, out_channels, ⌈H/stride⌉, ⌈W/stride⌉].
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        before = self.relu1(self.bn1(x))
        out: Tensor = self.conv2(self.dropout(self.relu2(self.bn2(self.conv1(before)))))
        return out + (x if self.shortcut is None else self.shortcut(before))


class WideResNet(nn.Module):
    """A wide residual network of 6n+4 layers for small images (Zagoruyko & Komodakis 2016, arXiv:1605.07146).

    One 3×3 convolution of ``width`` channels, three stages of n pre-activation blocks with ``widen``, 2 ``widen`` and
    4 ``widen`` times as many, batch norm, ReLU, the mean over all pixels, one linear layer. Shapes: [B, in_channels, H,
    W] → logits [B, num_classes]; H and W of 8 or more.

    ``WideResNet(40, 2, 100)`` is the wrn_40_2 of the CRD benchmark (Tian et al. 2020, arXiv:1910.10699).

    >>> sum(p.numel() for p in WideResNet(16, 2, 100).parameters())
    703284
    """

    def __init__(
        self,
        depth: int,
        widen: int,
        num_classes: int = 10,
        in_channels: int = 3,
        width: int = 16,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth: got {depth}; expected 6n+4, such as 10, 16 or 40")
        widths = [width, *(width * widen * factor for factor in (1, 2, 4))]
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        stages = [
            nn.Sequential(
                PreActivationBlock(before, after, stride, dropout),
                *(PreActivationBlock(after, after, 1, dropout) for _ in range((depth - 4) // 6 - 1)),
            )
            for before, after, stride in zip(widths, widths[1:], (1, 2, 2), strict=False)
        ]
        self.layer1, self.layer2, self.layer3 = stages
        self.bn1 = nn.BatchNorm2d(widths[-1])
        self.relu = nn.ReLU()
        self.pool = GlobalAveragePool()
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(widths[-1], num_classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        logits: Tensor = self.linear(self.flatten(self.pool(self.relu(self.bn1(out)))))
        return logits


# Convolutions of each of the five blocks.
_VGG_BLOCKS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(nn.Module):
    """A VGG with batch norm for small images (Simonyan & Zisserman 2014, arXiv:1409.1556), one linear layer at its end.

    Five blocks of 3×3 convolutions, with ``width``, 2, 4, 8 and 8 times as many channels; halved by a maximum after the
    first three (after four where ``large``), the mean over all pixels after the last. Shapes: [B, in_channels, H, W] →
    logits [B, num_classes]; H and W of 8 or more, of 16 or more where ``large``.

    ``VGG(13, 100)`` is the vgg13 of the CRD benchmark (Tian et al. 2020, arXiv:1910.10699).

    >>> sum(p.numel() for p in VGG(8, 100).parameters())
    3965028
    """

    def __init__(
        self, depth: int, num_classes: int = 10, in_channels: int = 3, width: int = 64, *, large: bool = False
    ) -> None:
        super().__init__()
        widths = [in_channels, *(width * factor for factor in (1, 2, 4, 8, 8))]
        for at, (count, before, after) in enumerate(zip(_VGG_BLOCKS[depth], widths, widths[1:], strict=False)):
            layers: list[nn.Module] = []
            for each in range(count):
                layers += [nn.ReLU()] if each else []
                layers += [nn.Conv2d(before if not each else after, after, 3, padding=1), nn.BatchNorm2d(after)]
            # The last ReLU of a block is a module of its own, so that what is before it can be tapped.
            self.add_module(f"block{at}", nn.Sequential(*layers))
            self.add_module(f"relu{at}", nn.ReLU())
            halved = at < 3 or (at == 3 and large)
            self.add_module(
                f"pool{at}", nn.MaxPool2d(2) if halved else GlobalAveragePool() if at == 4 else nn.Identity()
            )
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(widths[-1], num_classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        for at in range(5):
            for name in ("block", "relu", "pool"):
                x = self.get_submodule(f"{name}{at}")(x)
        logits: Tensor = self.classifier(self.flatten(x))
        return logits


class MLP(nn.Module):
    """Hidden layers of linear → relu → dropout on the flattened input, then one linear layer.

    Shapes: [B, …] with ``in_features`` numbers an image → logits [B, num_classes].

    >>> import torch
    >>> MLP(3 * 8 * 8, 10, hidden=(32,))(torch.zeros(5, 3, 8, 8)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self, in_features: int, num_classes: int, *, hidden: Sequence[int] = (256, 256), dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        widths = [in_features, *hidden]
        self.layers = nn.Sequential(*(_layer(before, after, dropout) for before, after in pairwise(widths)))
        self.linear = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.layers(self.flatten(x)))
        return logits


def _layer(before: int, after: int, dropout: float) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict(linear=nn.Linear(before, after), relu=nn.ReLU())
    if dropout:
        parts["dropout"] = nn.Dropout(dropout)
    return nn.Sequential(parts)


def default_patch(image_size: int) -> int:
    """The divisor of the image's side that is nearest to an eighth of it: about 8×8 tokens; the larger of two.

    >>> [default_patch(size) for size in (8, 28, 32, 64)]
    [1, 4, 4, 8]
    """
    divisors = [side for side in range(1, image_size + 1) if image_size % side == 0]
    return min(divisors, key=lambda side: (abs(side - image_size / 8), -side))


class Attention(nn.Module):
    """Multi-head self-attention, softmax(q kᵀ/√(dim/heads)) v. Shapes: [B, N, dim] → [B, N, dim].

    ``query``, ``key`` and ``value`` give these of all heads, [B, N, dim]: taps for losses on them.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.query, self.key, self.value = (nn.Identity() for _ in range(3))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).chunk(3, -1)  # by number: what torch.fx follows has no length
        taps = enumerate((self.query, self.key, self.value))
        q, k, v = (tap(parts[at]).unflatten(-1, (self.heads, -1)).transpose(1, 2) for at, tap in taps)
        mixed = F.scaled_dot_product_attention(q, k, v)
        result: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return result


class Block(nn.Module):
    """A pre-norm block: x + attention(norm1(x)), then x + mlp(norm2(x)). Shapes: [B, N, dim] → [B, N, dim]."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        hidden = max(1, int(dim * mlp_ratio))
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.dropout1 = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.dropout2 = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout1(self.attention(self.norm1(x)))
        result: Tensor = x + self.dropout2(self.mlp(self.norm2(x)))
        return result


class ViT(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929) with mean pooling in place of a class token.

    Shapes: [B, in_channels, image_size, image_size] → logits [B, num_classes].

    >>> ViT(32, 10)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        image_size: int,
        num_classes: int,
        in_channels: int = 3,
        *,
        patch: int | None = None,
        dim: int = 64,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        side = patch or default_patch(image_size)
        if image_size % side:
            raise ValueError(f"patch: got {side}; expected a divisor of the image's side ({image_size})")
        if dim % heads:
            raise ValueError(f"heads: got {heads}; expected a divisor of dim ({dim})")
        self.patches = nn.Conv2d(in_channels, dim, side, stride=side)
        self.positions = nn.Parameter(torch.empty(1, (image_size // side) ** 2, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, mlp_ratio, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)
        nn.init.trunc_normal_(self.positions, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        tokens = self.norm(self.blocks(tokens))
        logits: Tensor = self.head(tokens.mean(1))
        return logits
