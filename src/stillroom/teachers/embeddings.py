"""A teacher that gives embeddings [B, d] and no logits: features and relations can be learned from it."""

from __future__ import annotations

from torch import Tensor, nn


class EmbeddingTeacher(nn.Module):
    """A model of embeddings as the rest of the package knows models: its output is the penultimate features.

    The last layer that follows is all zeros and stands for the logits, which nothing may read.

    Args:
        model: gives [B, d].
        width: d.
        classes: K.

    >>> import torch
    >>> teacher = EmbeddingTeacher(nn.Flatten(), 4, 10)
    >>> teacher(torch.ones(2, 1, 2, 2)).shape
    torch.Size([2, 10])
    """

    def __init__(self, model: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Linear(width, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.model(images))
        return logits
