"""Queries of a network with noisy images: its features at a tap, their gradients, and the number of passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stillroom.errors import BadInput
from stillroom.explain.grid import Grid
from stillroom.models.modes import eval_mode
from stillroom.models.reader import TapReader
from stillroom.randomness import generator

FeatureFunction = Callable[[Tensor], Tensor]

# Numbers of all images of one pass: their activations are a thousand times as many bytes.
_PASS_SIZE = {"cpu": 1 << 19, "cuda": 1 << 23}


@dataclass
class CountingModel:
    """A feature function that counts its passes, forward and backward one each for an image."""

    feature_fn: FeatureFunction  # [n, C, H, W] → [n, …], differentiable, of each image by itself
    grid: Grid  # the cells over its images
    passes: int = 0  # images that went through it so far

    def features(self, images: Tensor) -> Tensor:
        """The features of images, [n, C, H, W] → [n, m] in float32."""
        found = self.feature_fn(images)
        self.passes += len(images)
        if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != len(images):
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise BadInput("feature_fn", got, f"a tensor [{len(images)}, …], a row for each of the images given")
        if not bool(found.isfinite().all()):
            raise BadInput("feature_fn", "NaN or infinity", "features that are finite, of noisy images too")
        return found.flatten(1).float()

    def vjp(self, features: Tensor, images: Tensor, vector: Tensor, *, last: bool = False) -> Tensor:
        """The vector-Jacobian product Jᵀv of features with respect to images, [n, C, H, W].

        Args:
            vector: v, [n, m].
        """
        self.passes += len(images)
        if not features.requires_grad:
            raise BadInput("feature_fn", "features without a gradient", "features that PyTorch can differentiate")
        (gradient,) = torch.autograd.grad(features, images, vector, retain_graph=not last, allow_unused=True)
        return torch.zeros_like(images) if gradient is None else gradient

    def images_per_pass(self, image: Tensor) -> int:
        """How many images like one [C, H, W] go through the network together."""
        return max(2, _PASS_SIZE.get(image.device.type, _PASS_SIZE["cpu"]) // image.numel())


def noise_generator(seed: int, index: int, stage: int) -> torch.Generator:
    """The generator of one image's noise: it depends on the seed, the image's index and the stage alone."""
    return generator(seed, "explain", index, stage)


class TapFeatures:
    """A model's features at a tap: [B, C, H, W] → [B, …], in evaluation mode, differentiable in the images.

    Args:
        model: the model; images are as it takes them, after its own preprocess.
        tap: a name as :class:`~stillroom.models.reader.TapReader` takes it, such as ``layer3``.
        rectified: give max(0, ·) of it, as for the output of a layer whose activation comes after.
        field: what messages call the model.

    Raises:
        BadInput: the model has no such tap.

    >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 4))
    >>> TapFeatures(net, "1")(torch.ones(5, 3)).shape
    torch.Size([5, 2])
    """

    def __init__(self, model: nn.Module, tap: str, *, rectified: bool = False, field: str = "model") -> None:
        self.model, self.tap, self.rectified = model, tap, rectified
        self._reader = TapReader(model, [tap], field=field)

    def __call__(self, images: Tensor) -> Tensor:
        with eval_mode(self.model), self._reader:
            self.model(images)
        features = self._reader.take()[self.tap]
        return features.relu() if self.rectified else features
