"""From pixels to one model's input, and from its columns of logits to the data's classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from stillroom.config import bad_input
from stillroom.data.tokens import is_tokens
from stillroom.errors import BadInput
from stillroom.models.config import ClassColumns, PreprocessConfig, PreprocessName

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PREPROCESS_NAMES: tuple[str, ...] = get_args(PreprocessName)


def resolve_preprocess(
    setting: PreprocessName | PreprocessConfig | None,
    *,
    channels: int,
    is_pixels: bool,
    is_text: bool = False,
    field: str = "model",
    model: nn.Module | None = None,
) -> PreprocessConfig | None:
    """Make a preprocess setting explicit for images of so many channels.

    Left out, it is ``none`` for data that is not uint8; for pixels what the model says of itself (timm's
    ``pretrained_cfg``), else ``imagenet`` for 3 channels and ``half`` for others.

    Returns:
        The numbers; None for pixels as they are given.

    >>> resolve_preprocess(None, channels=1, is_pixels=True).mean
    (0.5,)
    >>> resolve_preprocess("none", channels=3, is_pixels=True) is None
    True
    """
    where = f"{field}.preprocess"
    if is_text and setting not in (None, "none") and not isinstance(setting, PreprocessConfig):
        raise BadInput(where, setting, "none: texts are token ids, which nothing is done to")
    if setting is None:
        if not is_pixels:
            return None
        if (own := _own_preprocess(model, channels)) is not None:
            return own
        setting = "imagenet" if channels == 3 else "half"
    if setting == "none":
        return None
    if setting == "imagenet":
        if channels != 3:
            raise BadInput(where, setting, f"one for images of {_count(channels)}, such as half; imagenet is for 3")
        return PreprocessConfig(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    if setting == "half":
        return PreprocessConfig(mean=(0.5,) * channels, std=(0.5,) * channels)
    if setting == "unit":
        return PreprocessConfig(mean=(0.0,) * channels, std=(1.0,) * channels)
    if len(setting.mean) != channels:
        raise BadInput(
            f"{where}.mean", setting.mean, f"one number for each channel; the images have {_count(channels)}"
        )
    if setting.channel_order == "bgr" and channels != 3:
        raise BadInput(f"{where}.channel_order", "bgr", f"rgb, as the images have {_count(channels)}")
    return setting


def _own_preprocess(model: nn.Module | None, channels: int) -> PreprocessConfig | None:
    """The mean and std that a model of timm carries, where they are for as many channels."""
    own = getattr(model, "pretrained_cfg", None)
    mean, std = (own.get(key) for key in ("mean", "std")) if isinstance(own, dict) else (None, None)
    numbers = [each for each in (mean, std) if isinstance(each, tuple | list) and len(each) == channels]
    return PreprocessConfig(mean=tuple(numbers[0]), std=tuple(numbers[1])) if len(numbers) == 2 else None


def explicit_preprocess(config: PreprocessConfig | None, channels: int, *, is_pixels: bool) -> PreprocessConfig:
    """A preprocess as numbers, also where pixels go in as they are.

    >>> explicit_preprocess(None, 1, is_pixels=False).std
    (1.0,)
    """
    if config is not None:
        return config
    # x/255 divided by 1/255 is x again.
    return PreprocessConfig(mean=(0.0,) * channels, std=((1 / 255) if is_pixels else 1.0,) * channels)


def preprocess_choices(channels: int) -> str:
    """The preprocesses to choose from for images of so many channels, for a message."""
    names = ["'unit' (x/255)", "'half' (x/255, then −.5, ÷.5)"]
    names += ["'imagenet' (x/255, then ImageNet's mean and std)"] if channels == 3 else []
    return ", ".join([*names, "'none' (0 … 255)"]) + " or {'mean': …, 'std': …}"


def parse_preprocess(text: str, *, field: str = "--preprocess") -> PreprocessName | PreprocessConfig:
    """Read a preprocess as it is written on a command line: a name, or ``mean/std`` by numbers.

    >>> parse_preprocess("0.5,0.4,0.3/0.2,0.2,0.2").std
    (0.2, 0.2, 0.2)
    >>> parse_preprocess("imagnet")
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: --preprocess: got 'imagnet'; expected imagenet, half, unit, none, or mean/std by numbers
    such as 0.5,0.5,0.5/0.2,0.2,0.2
    """
    name: PreprocessName
    for name in get_args(PreprocessName):
        if text.strip() == name:
            return name
    parts = text.split("/")
    try:
        mean, std = (tuple(float(number) for number in part.split(",")) for part in parts)
    except ValueError:
        expected = f"{', '.join(PREPROCESS_NAMES)}, or mean/std by numbers such as 0.5,0.5,0.5/0.2,0.2,0.2"
        raise BadInput(field, text, expected) from None
    try:
        return PreprocessConfig(mean=mean, std=std)
    except ValidationError as error:
        raise BadInput(field, text, bad_input(error, PreprocessConfig).expected) from None


def plain_preprocess(config: PreprocessConfig) -> PreprocessConfig:
    """The preprocess that leaves floats as they are, with another's class order."""
    channels = len(config.mean)
    return PreprocessConfig(mean=(0.0,) * channels, std=(1.0,) * channels, class_order=config.class_order)


class Preprocess(nn.Module):
    """Images [B, C, H, W] → one model's input, [B, C, H, W].

    y = (resize(x/255) − mean)/std, channel by channel in the model's order, in float32 and in this order of
    operations: bit by bit what torchvision's ``ToTensor`` and ``Normalize`` give on the CPU. Without a config,
    y = float(x). Floats that are no pixels keep their type. Token ids are given on as they are.

    Args:
        config: what :func:`resolve_preprocess` gave. With ``bgr``, the channels are reversed first, so ``mean`` and
            ``std`` are in the model's order, too.
        is_pixels: whether inputs count from 0 to 255, be they uint8 or float; if not, they are not divided by 255.
        channels_last: whether y lies in channels-last memory, which convolutions are faster on; else as x does.

    >>> half = Preprocess(PreprocessConfig(mean=(0.5,), std=(0.5,)))
    >>> half(torch.tensor([[[[0, 255]]]], dtype=torch.uint8)).tolist()
    [[[[-1.0, 1.0]]]]
    """

    white: Tensor
    mean: Tensor
    std: Tensor
    order: Tensor | None

    def __init__(self, config: PreprocessConfig | None, *, is_pixels: bool = True, channels_last: bool = True) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.config = config
        self.is_pixels = is_pixels
        # Of floats, whatever their shape, a config may say no more than the order of the classes.
        self._is_plain = config is not None and not is_pixels and config == plain_preprocess(config)
        mean, std = (config.mean, config.std) if config else ((0.0,), (1.0,))
        order = None if config is None or config.class_order is None else class_index(config.class_order)
        # Not part of any state: they come from the config, and a student's file holds its weights alone.
        # On a GPU, division by a plain number is a product with its reciprocal: other bits than on the CPU.
        self.register_buffer("white", torch.tensor(255.0), persistent=False)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("order", order, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if is_tokens(images):
            return images
        # Arranged while a pixel is still one byte.
        layout = torch.channels_last if self.channels_last and images.dim() == 4 else None
        x = images.contiguous(memory_format=layout) if layout is not None else images
        if layout is None and images.dim() == 4:
            # Of one channel `contiguous` may leave strides that mean channels-last to a convolution.
            x = images.clone(memory_format=torch.contiguous_format)
        dtype = torch.float32 if self.is_pixels or not x.is_floating_point() else x.dtype
        if self.config is None or self._is_plain:
            # Always a copy: a model whose first operation works in place must not change the data.
            return x.to(dtype, copy=True)
        if self.config.channel_order == "bgr":
            x = x.flip(-3)
        x = x.to(dtype)
        # What is changed in place below must not be the caller's own tensor.
        x = x.div(self.white) if self.is_pixels else x.clone()
        size = self.config.size
        if size is not None and tuple(x.shape[-2:]) != (size, size):
            x = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
            x = x.contiguous(memory_format=layout) if layout is not None else x
        return x.sub_(self.mean).div_(self.std)

    def reorder(self, logits: Tensor) -> Tensor:
        """The model's logits [B, columns] in the order of the data's classes; see :func:`select_classes`."""
        return select_classes(logits, self.order)


def class_index(
    class_order: Sequence[ClassColumns],
    *,
    columns: int | None = None,
    classes: int | None = None,
    field: str = "model",
    complete: bool = False,
) -> Tensor:
    """Check a class order and make it an index of columns, for :func:`select_classes`.

    Args:
        class_order: for each class of the data a column, several, or None where the model lacks the class.
        columns: how many the model has.
        classes: how many classes the data have.
        field: what messages call the model.
        complete: every class has one column of its own.

    Returns:
        int64 [K'], of the classes that the model has; [K', M], filled up with −1, where one has several columns.

    >>> class_index((2, 2), columns=3)
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: model.preprocess.class_order: got (2, 2); expected each column once, but 2 is there
    twice
    >>> class_index((3, None, (0, 2))).tolist()
    [[3, -1], [0, 2]]
    """
    where = f"{field}.preprocess.class_order"
    order = tuple(class_order)
    if classes is not None and len(order) != classes:
        raise BadInput(where, order, f"one column for each of the {classes} classes, not {len(order)}")
    groups = [(each,) if isinstance(each, int) else each for each in order if each is not None]
    if not groups or (complete and (len(groups) < len(order) or any(len(group) > 1 for group in groups))):
        raise BadInput(where, order, "a column for each class")
    seen: set[int] = set()
    for column in (column for group in groups for column in group):
        if column < 0 or (columns is not None and column >= columns):
            limit = f"columns from 0 to {columns - 1}" if columns is not None else "columns of 0 or more"
            raise BadInput(where, order, f"{limit}, but {column} is there")
        if column in seen:
            raise BadInput(where, order, f"each column once, but {column} is there twice")
        seen.add(column)
    most = max(map(len, groups))
    index = torch.tensor([[*group, *[-1] * (most - len(group))] for group in groups], dtype=torch.int64)
    return index[:, 0] if most == 1 else index


def select_classes(logits: Tensor, index: Tensor | None) -> Tensor:
    """A model's logits [B, columns] as those of the data's classes [B, K']: y_k = log Σ_m exp x[:, index[k, m]].

    >>> merged = select_classes(torch.tensor([[0.0, 0.0, 0.0, 0.0]]), torch.tensor([[0, -1, -1], [1, 2, 3]]))
    >>> merged.softmax(1).mul(100).round().tolist()
    [[25.0, 75.0]]
    """
    if index is None:
        return logits
    if index.dim() == 1:
        return logits.index_select(-1, index)
    held = logits.index_select(-1, index.clamp_min(0).flatten()).reshape(*logits.shape[:-1], *index.shape)
    return held.masked_fill(index < 0, float("-inf")).logsumexp(-1)


def known_classes(config: PreprocessConfig | None) -> Tensor | None:
    """The classes of the data that a model's class order has columns for, int64 [K']; None where it has all."""
    order = config.class_order if config is not None else None
    if order is None or None not in order:
        return None
    return torch.tensor([position for position, columns in enumerate(order) if columns is not None])


def _count(channels: int) -> str:
    return "1 channel" if channels == 1 else f"{channels} channels"
