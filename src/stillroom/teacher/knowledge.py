"""What a model says of a batch; an objective cannot tell where it came from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Knowledge:
    """One model's answer to one batch.

    Attributes:
        logits: [B, K], in the data's class order.
    """

    logits: Tensor
