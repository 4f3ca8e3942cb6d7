"""From a model's config to the model: one of the zoo, of timm or torchvision, or the user's own ``module:function``."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from torch import nn

from stillroom.config import Config, bad_input
from stillroom.errors import BadInput, nearest
from stillroom.models.config import (
    ZOO,
    BagOptions,
    MLPOptions,
    ModelConfig,
    ResNetOptions,
    TextEncoderOptions,
    TextLSTMOptions,
    VGGOptions,
    ViTOptions,
    WideResNetOptions,
    WRNOptions,
    names,
)
from stillroom.models.custom import build_custom
from stillroom.models.external import build_external, is_external
from stillroom.models.text import BagOfEmbeddings, TextEncoder, TextLSTM
from stillroom.models.transformers import build_transformers, build_vision_transformers
from stillroom.models.zoo import MLP, VGG, ResNet, ViT, WideResNet, default_patch

__all__ = ["brings_weights", "build", "names"]


def brings_weights(name: str) -> bool:
    """Whether a model may come with weights of its own: the user's ``module:function`` may, all others are random.

    >>> brings_weights("my_models:teacher"), brings_weights("timm:resnet18"), brings_weights("resnet56")
    (True, False, False)
    """
    return ":" in name and not is_external(name) and not _is_transformers(name)


def _is_transformers(name: str) -> bool:
    return name.startswith("transformers:")


def build(
    config: ModelConfig,
    *,
    num_classes: int,
    in_channels: int,
    image_size: int | None,
    text: tuple[int, int] | None = None,
    field: str = "model",
) -> nn.Module:
    """Make the model a config names, with fresh weights drawn from torch's global generator.

    ``config.weights`` is not read here: see :func:`stillroom.models.weights.load_weights`.

    Args:
        image_size: side of the images in pixels as this model gets them; None where they differ.
        text: of texts, the number that token ids are below, and the most tokens of a text.

    Returns:
        A module from [B, in_channels, H, W], or token ids int32 [B, L], to logits [B, num_classes], in
        training mode, on the CPU.

    Raises:
        BadInput: no such model, options it does not take, or the user's own cannot be made.

    >>> net = build(ModelConfig(name="resnet8"), num_classes=10, in_channels=3, image_size=32)
    >>> build(ModelConfig(name="resnt8"), num_classes=10, in_channels=3, image_size=32, field="student")
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: student.name: got 'resnt8'; expected a model of the zoo or module:function (did you
    mean 'resnet8'?)
    """
    _check_kind(config.name, text is not None, field)
    if text is not None:
        return _build_for_text(config, num_classes, *text, field)
    sizes: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    if is_external(config.name):
        return build_external(config.name, config.options, **sizes, field=field)
    if _is_transformers(config.name):
        return build_vision_transformers(config.name, config.options, **sizes, field=field)
    if ":" in config.name:
        return build_custom(config.name, config.options, sizes, field=field)
    options = _options(config, field)
    if isinstance(options, ResNetOptions | WideResNetOptions):
        depth = int(config.name.removeprefix("resnet").removesuffix("x4"))
        # Those four times as wide have learned shortcuts, and a width of their own for the first convolution.
        learned = {"projection": True} if isinstance(options, WideResNetOptions) else {}
        return ResNet(depth, num_classes, in_channels, **dict(options), **learned)
    if isinstance(options, WRNOptions):
        depth, widen = (int(part) for part in config.name.removeprefix("wrn_").split("_"))
        return WideResNet(depth, widen, num_classes, in_channels, **dict(options))
    if isinstance(options, VGGOptions):
        depth = int(config.name.removeprefix("vgg"))
        large = image_size is not None and image_size >= 64
        return VGG(depth, num_classes, in_channels, large=large, **dict(options))
    if image_size is None:
        raise BadInput(f"{field}.name", config.name, "a model for images of any size, as these have no one size")
    if isinstance(options, MLPOptions):
        return MLP(in_channels * image_size**2, num_classes, **dict(options))
    assert isinstance(options, ViTOptions), f"the zoo lists {config.name!r} but nothing builds it"
    patch = options.patch or default_patch(image_size)
    if image_size % patch:
        raise BadInput(f"{field}.options.patch", patch, f"a divisor of the image's side ({image_size})")
    return ViT(image_size, num_classes, in_channels, **{**dict(options), "patch": patch})


def _check_kind(name: str, of_text: bool, field: str) -> None:
    """Refuse a model of images for texts, and one of texts for images."""
    if name in ZOO:
        own: bool | None = ZOO[name].of_text
    else:
        # Of transformers there are both.
        own = False if is_external(name) else None
    if own is not None and own != of_text:
        fitting = "bert_mini, bert_micro, text_bag, text_lstm, transformers:TYPE" if of_text else "resnet8, vit_mini …"
        kind = "texts" if of_text else "images"
        raise BadInput(
            f"{field}.name", name, f"a model for {kind}, as the data are ({fitting}); this takes other input"
        )


def _options(config: ModelConfig, field: str) -> Config:
    """The options of a model of the zoo, checked."""
    if config.name not in ZOO:
        hint = nearest(config.name, ZOO)
        raise BadInput(f"{field}.name", config.name, f"a model of the zoo or module:function ({hint})")
    kind = ZOO[config.name].options
    try:
        return kind.model_validate(config.options)
    except ValidationError as error:
        raise bad_input(error, kind, prefix=f"{field}.options") from None


def _build_for_text(config: ModelConfig, num_classes: int, vocabulary: int, length: int, field: str) -> nn.Module:
    if _is_transformers(config.name):
        sizes = {"num_classes": num_classes, "vocabulary": vocabulary, "length": length}
        return build_transformers(config.name, config.options, **sizes, field=field)
    if ":" in config.name:
        offered = {"num_classes": num_classes, "vocabulary": vocabulary, "length": length}
        return build_custom(config.name, config.options, offered, field=field)
    options = _options(config, field)
    if isinstance(options, TextLSTMOptions):
        return TextLSTM(vocabulary, num_classes, **dict(options))
    if isinstance(options, BagOptions):
        return BagOfEmbeddings(vocabulary, num_classes, **dict(options))
    assert isinstance(options, TextEncoderOptions), f"the zoo lists {config.name!r} but nothing builds it"
    return TextEncoder(vocabulary, length, num_classes, **dict(options))
