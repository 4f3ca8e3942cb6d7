"""A student that ends in its teacher's last layer: its own layers, a projector, the teacher's classifier (SimKD)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillroom.errors import BadInput
from stillroom.models.config import ReusedHeadConfig
from stillroom.models.modes import copy_model, freeze
from stillroom.models.reader import FEATURES
from stillroom.models.tail import find_head
from stillroom.models.taps import find_taps

# The module whose output is compared with the teacher's features.
PROJECTOR = "projector"


class ReusedHead(nn.Module):
    """A model whose last layer is a teacher's, frozen, behind a projector that is trained.

    logits = W·mean over places of P(h) + b: h the map at a tap of the model, pooled to the teacher's grid where that is
    smaller, P three convolutions (1×1, 3×3, 1×1) with batch norm and ReLU, W and b the teacher's. Where h is a vector,
    it is a map of one place, and the projector has no batch norm, which a batch of one could not be trained with. The
    model's own last layer is dropped. W and b are in the state dict, so that the file of weights needs no teacher.

    Args:
        model: copied; it must end in a linear layer.
        config: where it is read, and the shape of the teacher's features.
        example: a few of its inputs, [B, …].
        num_classes: K.
        field: what errors call the model.

    Raises:
        BadInput: it does not end in a linear layer, or has no such tap.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    >>> config = ReusedHeadConfig(teacher_tap="layer3", tap="1", channels=8, grid=(2, 2))
    >>> student = ReusedHead(net, config, torch.zeros(2, 1, 6, 6), 3)
    >>> student(torch.zeros(5, 1, 6, 6)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        model: nn.Module,
        config: ReusedHeadConfig,
        example: Tensor,
        num_classes: int,
        *,
        field: str = "student",
    ) -> None:
        super().__init__()
        (tap,) = find_taps(model, example, [config.tap], field=field)
        own = find_head(model, example)
        if not own:
            raise BadInput(field, type(model).__name__, "a model that ends in a linear layer, which another replaces")
        self.config = config
        self.net = copy_model(model)
        self.net.set_submodule(own, nn.Identity())
        self.projector = _projector(
            math.prod(tap.shape) if tap.kind == "vector" else tap.shape[0],
            config.channels,
            max(config.channels // config.factor, 1),
            normed=tap.kind == "map",
        )
        self.head = freeze(nn.Linear(config.channels, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, …] → logits [B, K]."""
        projected = self.projector(self._features(images))
        logits: Tensor = self.head(projected.mean((2, 3)))
        return logits

    def _features(self, images: Tensor) -> Tensor:
        """What the projector reads, [B, C, H, W]."""
        if self.config.tap == FEATURES:
            vector: Tensor = self.net(images)
            return vector.flatten(1)[:, :, None, None]
        read: list[Tensor] = []
        # Only for this pass: a hook that stays would be in every copy.
        handle = self.net.get_submodule(self.config.tap).register_forward_hook(lambda *given: read.append(given[2]))
        try:
            self.net(images)
        finally:
            handle.remove()
        grid = self.config.grid
        if grid is None or tuple(read[-1].shape[2:]) == grid or min(read[-1].shape[2:]) < min(grid):
            return read[-1]
        return F.adaptive_avg_pool2d(read[-1], grid)

    @torch.no_grad()
    def set_head(self, weight: Tensor, bias: Tensor | None) -> None:
        """Take over a teacher's last layer: W [K, channels] and b [K]."""
        layer = self.head
        assert isinstance(layer, nn.Linear)
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros_like(layer.bias) if bias is None else bias)


def _projector(channels: int, out: int, inner: int, *, normed: bool) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after, kernel in ((channels, inner, 1), (inner, inner, 3 if normed else 1), (inner, out, 1)):
        layers.append(nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=not normed))
        layers += [nn.BatchNorm2d(after), nn.ReLU()] if normed else [nn.ReLU()]
    return nn.Sequential(*layers)
