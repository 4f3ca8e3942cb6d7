"""A network as it is asked about noisy images: features and their gradients, each pass counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stillroom.errors import BadInput
from stillroom.explain.grid import Grid
from stillroom.randomness import generator

FeatureFunction = Callable[[Tensor], Tensor]

# Numbers of all images that go through the network at once: their activations are a thousand times as many bytes.
_AT_ONCE = {"cpu": 1 << 19, "cuda": 1 << 23}


@dataclass
class Asked:
    """The features of images, and what moves them.

    Attributes:
        feature_fn: [n, C, H, W] → [n, …], differentiable, of each image by itself.
        grid: the cells over its images.
        passes: how many images went through it so far; forward and backward count one each.
    """

    feature_fn: FeatureFunction
    grid: Grid
    passes: int = 0

    def features(self, images: Tensor) -> Tensor:
        """The features of images, [n, C, H, W] → [n, m] in float32.

        Raises:
            BadInput: they are no tensor of a row for each image, or not finite.
        """
        found = self.feature_fn(images)
        self.passes += len(images)
        if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != len(images):
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise BadInput("feature_fn", got, f"a tensor [{len(images)}, …], a row for each of the images given")
        if not bool(found.isfinite().all()):
            raise BadInput("feature_fn", "NaN or infinity", "features that are finite, of noisy images too")
        return found.flatten(1).float()

    def moved_by(self, features: Tensor, images: Tensor, along: Tensor, *, last: bool = False) -> Tensor:
        """How features' products with a direction move with the images: Jᵀv, [n, C, H, W].

        Args:
            features: of the images, with their graph.
            images: they were made of these.
            along: v, [n, m].
            last: whether the graph is needed no longer.
        """
        self.passes += len(images)
        if not features.requires_grad:
            raise BadInput("feature_fn", "features without a gradient", "features that PyTorch can differentiate")
        (gradient,) = torch.autograd.grad(features, images, along, retain_graph=not last, allow_unused=True)
        return torch.zeros_like(images) if gradient is None else gradient

    def at_once(self, image: Tensor) -> int:
        """How many images like one [C, H, W] go through the network together."""
        return max(2, _AT_ONCE.get(image.device.type, _AT_ONCE["cpu"]) // image.numel())


def stream(seed: int, index: int, stage: int) -> torch.Generator:
    """The generator of one image's noise: it depends on the seed, the image's index and the stage alone."""
    return generator(seed, "explain", index, stage)
