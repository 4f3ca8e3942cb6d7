"""What a model says of a batch; an objective cannot tell where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Knowledge:
    """One model's answer to one batch.

    Attributes:
        logits: [B, K], in the data's class order.
        features: what the objectives read at taps, by the tap's name: [B, …] each.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
