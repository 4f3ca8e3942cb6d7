"""One way to ask a teacher, which is asked about no image twice."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stillroom.models.config import PreprocessConfig
from stillroom.models.fold import fold_batchnorm
from stillroom.models.modes import device_of
from stillroom.models.preprocess import Preprocess

Ask = Callable[[nn.Module, PreprocessConfig | None, Tensor, str], Tensor]


class Reading:
    """A model with what its input goes through; what it said of the sample is kept.

    Args:
        model: ready to be asked.
        preprocess: what its input goes through, without a class order.
        ask: asks it.
        images: the sample.
    """

    def __init__(self, model: nn.Module, preprocess: PreprocessConfig | None, ask: Ask, images: Tensor) -> None:
        self.model = model
        self.preprocess = preprocess
        self._ask = ask
        self._images = images
        self._said: Tensor | None = None

    def first(self, count: int, what: str = "training images") -> Tensor:
        """What it says of the first images, in its own order of classes: float32 [count, columns]."""
        known = 0 if self._said is None else len(self._said)
        if known < count:
            more = self._ask(self.model, self.preprocess, self._images[known:count], what)
            self._said = more if self._said is None else torch.cat([self._said, more])
        assert self._said is not None
        return self._said[:count]


def ready(model: nn.Module, pipe: Preprocess, images: Tensor, device: torch.device) -> nn.Module:
    """A copy as a run asks it: batch norms folded where that is exact, frozen, laid out for speed.

    Args:
        model: the model, which is left as it is.
        pipe: what its input goes through.
        images: a few, on which the copy is compared with the model.
        device: where it shall be.
    """
    folded, _ = fold_batchnorm(model, pipe(images).to(device_of(model)))
    folded.requires_grad_(False).eval().to(device)
    return folded.to(memory_format=torch.channels_last) if images.dim() == 4 else folded  # type: ignore[call-overload]
