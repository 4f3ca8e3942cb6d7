"""The features of a model at one of its taps, as a function of images."""

from __future__ import annotations

from torch import Tensor, nn

from stillroom.models.modes import eval_mode
from stillroom.models.reader import TapReader


class TapFeatures:
    """What a model gives at a tap: [B, C, H, W] → [B, …], in evaluation mode, differentiable in the images.

    Args:
        model: the model; images are as it takes them, after its own preprocess.
        tap: as :class:`~stillroom.models.reader.TapReader` takes it, such as ``layer3``.
        rectified: give max(0, ·) of it, as for the output of a layer whose activation comes after.
        field: what messages call the model.

    Raises:
        BadInput: the model has no such tap.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 4))
    >>> TapFeatures(net, "1")(torch.ones(5, 3)).shape
    torch.Size([5, 2])
    """

    def __init__(self, model: nn.Module, tap: str, *, rectified: bool = False, field: str = "model") -> None:
        self.model, self.tap, self.rectified = model, tap, rectified
        self._taps = TapReader(model, [tap], field=field)

    def __call__(self, images: Tensor) -> Tensor:
        with eval_mode(self.model), self._taps:
            self.model(images)
        features = self._taps.take()[self.tap]
        return features.relu() if self.rectified else features
