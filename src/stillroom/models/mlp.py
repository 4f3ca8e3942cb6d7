"""A multilayer perceptron on flattened pixels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Hidden layers of linear → relu → dropout on the flattened input, then one linear layer.

    Shapes: [B, …] with ``in_features`` numbers an image → logits [B, num_classes].

    Args:
        in_features: channels · height · width of an image.
        num_classes: number of logits.
        hidden: units of each hidden layer; empty for a linear classifier.
        dropout: probability that a hidden unit is dropped in training.

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
