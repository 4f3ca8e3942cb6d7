"""From a model's config to the model: one of the zoo, of timm or torchvision, or the user's own ``module:function``."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from torch import nn

from stillroom.config import bad_input
from stillroom.errors import BadInput, nearest
from stillroom.models.config import ZOO, MLPOptions, ModelConfig, ResNetOptions, ViTOptions, WideResNetOptions, names
from stillroom.models.custom import build_custom
from stillroom.models.external import build_external, is_external
from stillroom.models.zoo import MLP, ResNet, ViT, default_patch

__all__ = ["brings_weights", "build", "names"]


def brings_weights(name: str) -> bool:
    """Whether a model may come with weights of its own: the user's ``module:function`` may, all others are random.

    >>> brings_weights("my_models:teacher"), brings_weights("timm:resnet18"), brings_weights("resnet56")
    (True, False, False)
    """
    return ":" in name and not is_external(name)


def build(
    config: ModelConfig, *, num_classes: int, in_channels: int, image_size: int | None, field: str = "model"
) -> nn.Module:
    """Make the model a config names, with fresh weights drawn from torch's global generator.

    ``config.weights`` is not read here: see :func:`stillroom.models.weights.load_weights`.

    Args:
        image_size: side of the images in pixels as this model gets them; None where they differ.

    Returns:
        A module from [B, in_channels, H, W] to logits [B, num_classes], in training mode, on the CPU.

    Raises:
        BadInput: no such model, options it does not take, or the user's own cannot be made.

    >>> net = build(ModelConfig(name="resnet8"), num_classes=10, in_channels=3, image_size=32)
    >>> build(ModelConfig(name="resnt8"), num_classes=10, in_channels=3, image_size=32, field="student")
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: student.name: got 'resnt8'; expected a model of the zoo or module:function (did you
    mean 'resnet8'?)
    """
    sizes: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    if is_external(config.name):
        return build_external(config.name, config.options, **sizes, field=field)
    if ":" in config.name:
        return build_custom(config.name, config.options, sizes, field=field)
    if config.name not in ZOO:
        hint = nearest(config.name, ZOO)
        raise BadInput(f"{field}.name", config.name, f"a model of the zoo or module:function ({hint})")
    kind = ZOO[config.name].options
    try:
        options = kind.model_validate(config.options)
    except ValidationError as error:
        raise bad_input(error, kind, prefix=f"{field}.options") from None
    if isinstance(options, ResNetOptions | WideResNetOptions):
        depth = int(config.name.removeprefix("resnet").removesuffix("x4"))
        # The wide ones have learned shortcuts, and a width of their own for the first convolution.
        return ResNet(
            depth, num_classes, in_channels, **dict(options), projection=isinstance(options, WideResNetOptions)
        )
    if image_size is None:
        raise BadInput(f"{field}.name", config.name, "a model for images of any size, as these have no one size")
    if isinstance(options, MLPOptions):
        return MLP(in_channels * image_size**2, num_classes, **dict(options))
    assert isinstance(options, ViTOptions), f"the zoo lists {config.name!r} but nothing builds it"
    patch = options.patch or default_patch(image_size)
    if image_size % patch:
        raise BadInput(f"{field}.options.patch", patch, f"a divisor of the image's side ({image_size})")
    return ViT(image_size, num_classes, in_channels, **{**dict(options), "patch": patch})
