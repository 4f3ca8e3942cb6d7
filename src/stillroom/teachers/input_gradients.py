"""Gradients of a model's output in its input images, which some losses compare; kept in the cache as features are."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

_PREFIX = "gradient:"
# Names among a teacher's features; each is [B, C, H, W] per pixel/white.
TOP_LOGIT, LABEL_LOSS = f"{_PREFIX}top_logit", f"{_PREFIX}label_loss"


def is_input_gradient(name: str) -> bool:
    """Whether a name among a teacher's features is not a tap but a gradient in its images.

    >>> is_input_gradient(TOP_LOGIT), is_input_gradient("layer1")
    (True, False)
    """
    return name.startswith(_PREFIX)


def differentiated(name: str, logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """The scalar whose gradient in the images a name means, summed over the batch.

    Args:
        name: ``TOP_LOGIT``: the logit of the class that the teacher finds most likely; ``LABEL_LOSS``: with the
            true labels.
        logits: of the model that is differentiated, [B, K].
        teacher_logits: [B, K].
        labels: int64 [B].

    >>> z = torch.tensor([[1.0, 5.0]])
    >>> differentiated(TOP_LOGIT, z, -z, torch.tensor([1])).item()
    1.0
    """
    if name == LABEL_LOSS:
        return F.cross_entropy(logits.float() if logits.dtype.itemsize < 4 else logits, labels, reduction="sum")
    return logits.gather(1, teacher_logits.argmax(1, keepdim=True)).sum()


def input_gradients(
    names: Iterable[str], logits: Tensor, labels: Tensor, images: Tensor, white: float
) -> dict[str, Tensor]:
    """A teacher's gradients in its images by name, [B, C, H, W] each, per pixel/white.

    Args:
        names: which.
        logits: computed from ``images``.
        labels: int64 [B].
        images: a leaf that requires its gradient.
        white: value of a white pixel in them.
    """
    values = {name: differentiated(name, logits, logits, labels) for name in names}
    return {
        name: white * torch.autograd.grad(value, images, retain_graph=True)[0].float() for name, value in values.items()
    }
