"""A small vision transformer: patches, learned positions, pre-norm blocks, the mean over tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def default_patch(image_size: int) -> int:
    """The divisor of the image's side that is nearest to an eighth of it: about 8×8 tokens; the larger of two.

    >>> [default_patch(size) for size in (8, 28, 32, 64)]
    [1, 4, 4, 8]
    """
    divisors = [side for side in range(1, image_size + 1) if image_size % side == 0]
    return min(divisors, key=lambda side: (abs(side - image_size / 8), -side))


class Attention(nn.Module):
    """Multi-head self-attention, softmax(q kᵀ/√(dim/heads)) v. Shapes: [B, N, dim] → [B, N, dim]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = dim // heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
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

    Args:
        image_size: side of the images in pixels.
        num_classes: number of logits.
        in_channels: channels of the images.
        patch: side of a patch in pixels; None takes :func:`default_patch`.
        dim: width of a token.
        depth: number of blocks.
        heads: attention heads a block.
        mlp_ratio: hidden units of a block's MLP, as a multiple of ``dim``.
        dropout: probability of dropping after attention and MLP, in training.

    Raises:
        ValueError: ``patch`` does not divide ``image_size``, or ``heads`` does not divide ``dim``.

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
