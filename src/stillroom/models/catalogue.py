"""What is in the zoo: names, one line on each, and their typed options. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from stillroom.config import Config

RESNET_DEPTHS = (8, 14, 20, 32, 44, 56, 110)
WIDE_RESNET_DEPTHS = (8, 32)


# A width of its own for what the classifier is given.
Penultimate = Annotated[
    int | None,
    Field(
        ge=1,
        le=65536,
        description="Width of the features before the classifier, made by a linear layer and a ReLU after the pooling; "
        "none gives it the pooled channels, 4 times `width`.",
    ),
]


class ResNetOptions(Config):
    """Options of ``resnet8`` … ``resnet110``."""

    width: int = Field(16, ge=1, le=1024, description="Channels of the first stage; the others have 2 and 4 times.")
    penultimate: Penultimate = None


class WideResNetOptions(Config):
    """Options of ``resnet8x4`` and ``resnet32x4``, the pair of the CRD benchmark."""

    width: int = Field(64, ge=1, le=1024, description="Channels of the first stage; the others have 2 and 4 times.")
    penultimate: Penultimate = None
    stem: int = Field(32, ge=1, le=1024, description="Channels of the first convolution.")


class MLPOptions(Config):
    """Options of ``mlp``."""

    hidden: tuple[Annotated[int, Field(ge=1, le=65536, strict=True)], ...] = Field(
        (256, 256), description="Units of each hidden layer; an empty list is a linear classifier."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Probability that a hidden unit is dropped in training.")


class ViTOptions(Config):
    """Options of ``vit_mini``."""

    patch: int | None = Field(
        None,
        ge=1,
        description="Side of a patch, in pixels; none takes the divisor of the image's side nearest 1/8 of it.",
    )
    dim: int = Field(64, ge=1, le=8192, description="Width of a token.")
    depth: int = Field(4, ge=1, le=128, description="Number of blocks.")
    heads: int = Field(4, ge=1, description="Attention heads a block; they divide `dim`.")
    mlp_ratio: float = Field(4.0, gt=0, le=64, description="Hidden units of a block's MLP, as a multiple of `dim`.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Probability of dropping after attention and MLP, in training.")

    @model_validator(mode="after")
    def _heads_divide(self) -> ViTOptions:
        if self.dim % self.heads:
            raise ValueError(f"heads that divide dim ({self.dim}), not {self.heads}")
        return self


class ViTTinyOptions(ViTOptions):
    """Options of ``vit_tiny``: those of ``vit_mini`` with the sizes of the published ViT-Ti."""

    dim: int = Field(192, ge=1, le=8192, description="Width of a token.")
    depth: int = Field(12, ge=1, le=128, description="Number of blocks.")
    heads: int = Field(3, ge=1, description="Attention heads a block; they divide `dim`.")


@dataclass(frozen=True)
class ZooModel:
    """One entry of the zoo."""

    name: str
    description: str
    options: type[Config]


def _entries() -> list[ZooModel]:
    resnets = [
        ZooModel(f"resnet{depth}", f"CIFAR ResNet of {depth} layers, 3 stages, parameter-free shortcuts", ResNetOptions)
        for depth in RESNET_DEPTHS
    ]
    wide = [
        ZooModel(
            f"resnet{depth}x4", f"CIFAR ResNet of {depth} layers, 4 times as wide, learned shortcuts", WideResNetOptions
        )
        for depth in WIDE_RESNET_DEPTHS
    ]
    return [
        *resnets,
        *wide,
        ZooModel("mlp", "multilayer perceptron on flattened pixels, 2 hidden layers of 256", MLPOptions),
        ZooModel("vit_mini", "vision transformer, 4 blocks of width 64, mean pooling", ViTOptions),
        ZooModel("vit_tiny", "vision transformer, 12 blocks of width 192 (ViT-Ti), mean pooling", ViTTinyOptions),
    ]


ZOO: dict[str, ZooModel] = {entry.name: entry for entry in _entries()}


def names() -> list[tuple[str, str]]:
    """Each model of the zoo with a line that describes it, in the order `stillroom list` prints.

    >>> names()[0]
    ('resnet8', 'CIFAR ResNet of 8 layers, 3 stages, parameter-free shortcuts')
    """
    return [(entry.name, entry.description) for entry in ZOO.values()]
