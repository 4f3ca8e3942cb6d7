"""The networks of the zoo for texts: BERT-like encoders, a bag of embeddings, an LSTM.

Each takes token ids int32 [B, L], −1 where there is no token, of any L up to the data's; padding changes nothing.
"""

from __future__ import annotations

import math

from torch import Tensor, nn


class TextEmbedding(nn.Module):
    """Tokens and their positions: norm(token + position). Shapes: ids [B, L] → [B, L, dim]."""

    def __init__(self, vocabulary: int, length: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, dim)
        self.positions = nn.Embedding(length, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor) -> Tensor:
        embedded = self.tokens(ids.clamp_min(0)) + self.positions.weight[: ids.shape[1]]
        result: Tensor = self.dropout(self.norm(embedded))
        return result


class TextAttention(nn.Module):
    """Multi-head self-attention to tokens alone. Shapes: [B, L, dim], mask [B, L] → [B, L, dim].

    ``query``, ``key`` and ``value`` give these of all heads, [B, L, dim]: taps for losses on them.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.query, self.key, self.value = (nn.Identity() for _ in range(3))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        parts = zip((self.query, self.key, self.value), self.qkv(x).chunk(3, -1), strict=True)
        q, k, v = (tap(part).unflatten(-1, (self.heads, -1)).transpose(1, 2) for tap, part in parts)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        maps = scores.masked_fill(~mask[:, None, None, :], float("-inf")).softmax(-1)
        result: Tensor = self.proj((maps @ v).transpose(1, 2).flatten(2))
        return result


class TextBlock(nn.Module):
    """A post-norm block, as BERT's: norm1(x + attention(x)), then norm2(x + mlp(x)). [B, L, dim] → [B, L, dim]."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        hidden = max(1, int(dim * mlp_ratio))
        self.attention = TextAttention(dim, heads)
        self.dropout1 = nn.Dropout(dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.dropout2 = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout1(self.attention(x, mask)))
        result: Tensor = self.norm2(x + self.dropout2(self.mlp(x)))
        return result


class TextEncoder(nn.Module):
    """A BERT-like encoder (Devlin et al. 2018, arXiv:1810.04805), not pretrained, with the mean over tokens as pooling.

    Shapes: ids int32 [B, L] → logits [B, num_classes].

    >>> import torch
    >>> model = TextEncoder(100, 16, 3, dim=8, depth=1, heads=2).eval()
    >>> ids = torch.tensor([[2, 7, 3, -1, -1]], dtype=torch.int32)
    >>> torch.allclose(model(ids), model(ids[:, :3]), atol=1e-6)
    True
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        num_classes: int,
        *,
        dim: int = 128,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.embedding = TextEmbedding(vocabulary, length, dim, dropout)
        self.blocks = nn.ModuleList(TextBlock(dim, heads, mlp_ratio, dropout) for _ in range(depth))
        self.head = nn.Linear(dim, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, ids: Tensor) -> Tensor:
        mask = ids >= 0
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, mask)
        logits: Tensor = self.head(masked_mean(x, mask))
        return logits


class BagOfEmbeddings(nn.Module):
    """The mean of the tokens' embeddings, hidden layers with ReLU, one linear layer: the order of words is lost.

    Shapes: ids int32 [B, L] → logits [B, num_classes].
    """

    def __init__(self, vocabulary: int, num_classes: int, *, dim: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, dim)
        self.hidden = nn.Linear(dim, dim)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(dim, num_classes)
        nn.init.normal_(self.tokens.weight, std=0.1)

    def forward(self, ids: Tensor) -> Tensor:
        mean = masked_mean(self.tokens(ids.clamp_min(0)), ids >= 0)
        logits: Tensor = self.head(self.dropout(self.relu(self.hidden(mean))))
        return logits


class _States(nn.LSTM):
    """An LSTM that gives its states alone, so that they are a tap."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        states: Tensor = super().forward(x)[0]
        return states


class TextLSTM(nn.Module):
    """An LSTM from left to right, so that padding at the end reaches no token; the mean of its states; a linear layer.

    Shapes: ids int32 [B, L] → logits [B, num_classes].
    """

    def __init__(
        self, vocabulary: int, num_classes: int, *, dim: int = 64, depth: int = 1, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, dim)
        self.lstm = _States(dim, dim, num_layers=depth, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(dim, num_classes)
        nn.init.normal_(self.tokens.weight, std=0.1)

    def forward(self, ids: Tensor) -> Tensor:
        states = self.lstm(self.dropout(self.tokens(ids.clamp_min(0))))
        logits: Tensor = self.head(self.dropout(masked_mean(states, ids >= 0)))
        return logits


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean over tokens alone: [B, L, d], bool [B, L] → [B, d].

    >>> import torch
    >>> masked_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]])).tolist()
    [[2.0]]
    """
    weight = mask[..., None].to(x.dtype)
    return (x * weight).sum(1) / weight.sum(1)
