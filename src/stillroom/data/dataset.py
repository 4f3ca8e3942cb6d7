"""Any PyTorch dataset of (image, label) pairs, read once into memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from stillroom.data.decoding import pixels
from stillroom.data.images import MAX_CLASSES, ImageSet, number_classes
from stillroom.data.reading import ArrayStack
from stillroom.errors import BadInput

_CHANNELS = (1, 3, 4)
# Pillow modes of four bytes a pixel that a dataset's pictures may all have.
_FOUR_BYTES = ("RGBA", "CMYK")
_READ_TWICE = 8


def from_dataset(dataset: Any, *, name: str = "dataset", field: str = "data") -> ImageSet:
    """Read a dataset once into memory.

    Images may be Pillow images, uint8 tensors [C, H, W] or [H, W], uint8 numpy arrays [H, W, C] or [H, W], or floats
    of any type and shape (tensors or arrays). Floats are kept as they are: values, type and shape. Pillow images give
    their bytes: one channel of a grey one, four of RGBA or CMYK where all are of that mode, else RGB.

    Args:
        dataset: map-style or iterable, of pairs (image, class number). Its ``classes`` name the classes where there
            are enough of them; else they are numbered. It should give the images as they are, without random changes.

    Raises:
        BadInput: it is empty, its items are not such pairs, shapes vary, images change at random, or it does not fit
            into memory.

    >>> items = [(np.zeros((8, 8, 3), np.uint8), 0), (np.ones((8, 8, 3), np.uint8), 1)]
    >>> from_dataset(items, name="mine")
    ImageSet('mine': 2 images of 3×8×8, uint8, 2 classes)
    """
    if type(dataset) is TensorDataset:
        images, labels = _from_tensors(dataset.tensors, field)
    else:
        images, labels = _from_items(dataset, field)
    names = number_classes(labels)
    own = _class_names(dataset)
    return ImageSet(images, labels, own if own is not None and len(own) >= len(names) else names, name)


def from_images(images: Any, *, field: str = "images") -> Tensor:
    """Images without labels as :func:`from_dataset` reads them: a tensor of them all, or one after another.

    >>> from_images([Image.new("L", (4, 2)), Image.new("L", (4, 2))]).shape
    torch.Size([2, 1, 2, 4])
    """
    if isinstance(images, Tensor):
        return images.detach().cpu()
    return _from_items([(image, 0) for image in images], field)[0]


def _from_items(dataset: Any, field: str) -> tuple[Tensor, Tensor]:
    size, items = _items(dataset, field)
    stack = ArrayStack(size, field, type(dataset).__name__)
    labels: list[int] = []
    mode: str | None = None
    for position, item in enumerate(items):
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise BadInput(field, type(item).__name__, f"items that are pairs (image, label) (item {position})")
        image, label = item
        if position == 0 and isinstance(image, Image.Image) and image.mode in _FOUR_BYTES:
            mode = image.mode
        array = _array(image, field, position, mode)
        stack.add(array, mix_grey=isinstance(image, Image.Image))
        # Reading once a dataset that changes its images at random would freeze them without a word.
        check_again = size is not None and position < _READ_TWICE
        if check_again and not _same(array, _array(dataset[position][0], field, position, mode)):
            expected = "the same image each time it is asked; random transforms would be frozen: set augmentation"
            raise BadInput(field, type(dataset).__name__, expected)
        labels.append(_label(label, field, position))
    return _with_bfloat16(stack.finish()), torch.tensor(labels, dtype=torch.int64)


def _items(dataset: Any, field: str) -> tuple[int | None, Iterator[Any]]:
    """The number of items where it is known, and the items."""
    if isinstance(dataset, DataLoader):
        raise BadInput(field, "DataLoader", "the dataset itself: batches are made here")
    if isinstance(dataset, Mapping | str | bytes):
        raise BadInput(field, type(dataset).__name__, "a dataset of pairs (image, label), such as one of its splits")
    if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset):
        size = len(dataset)
        return size, (dataset[position] for position in range(size))
    if isinstance(dataset, Iterable):
        return None, iter(dataset)
    raise BadInput(field, type(dataset).__name__, "a dataset of pairs (image, label)")


# numpy has no bfloat16: its two bytes travel as a type of their own.
_BFLOAT16 = np.dtype([("bfloat16", np.int16)])


def _with_bfloat16(array: npt.NDArray[Any]) -> Tensor:
    if array.dtype == _BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _same(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    """Whether two readings of an item are equal; NaN equals NaN, and is reported as such later."""
    return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()


def _array(image: Any, field: str, position: int, mode: str | None = None) -> npt.NDArray[Any]:
    """One image as uint8 [C, H, W], or floats as they are; pictures of ``mode`` keep its four channels."""
    if isinstance(image, Image.Image):
        try:
            if mode is not None and image.mode == mode:
                return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)
            return pixels(image)
        except (OSError, ValueError) as error:
            raise BadInput(field, f"item {position}", f"a picture that can be decoded ({error})") from None
    if isinstance(image, Tensor):
        plain = image.detach().as_subclass(Tensor).cpu()
        if plain.dtype == torch.bfloat16:
            return np.atleast_1d(plain.contiguous().view(torch.int16).numpy()).view(_BFLOAT16)
        if plain.is_floating_point():
            return np.atleast_1d(plain.numpy())
        array = plain.numpy() if plain.dtype == torch.uint8 else None
        given = f"{plain.dtype} {list(plain.shape)}"
        channels_last = False
    elif isinstance(image, np.ndarray) and image.dtype in (np.float16, np.float32, np.float64):
        return np.atleast_1d(image)
    else:
        array = image if isinstance(image, np.ndarray) and image.dtype == np.uint8 else None
        given = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        channels_last = True
    if array is None or array.ndim not in (2, 3):
        raise BadInput(
            field,
            given,
            f"an image: a Pillow image, a uint8 tensor [C, H, W] or array [H, W, C], or floats (item {position})",
        )
    if array.ndim == 2:
        return array[None]
    # Both orders are common, and a wrong one would train on without a word.
    first, last = array.shape[0] in _CHANNELS, array.shape[-1] in _CHANNELS
    if (channels_last and first and not last) or (not channels_last and last and not first):
        order = "[H, W, C], as it is a numpy array" if channels_last else "[C, H, W], as it is a tensor"
        raise BadInput(field, given, f"{order} (item {position})")
    return array.transpose(2, 0, 1) if channels_last else array


def _label(label: Any, field: str, position: int) -> int:
    whole = isinstance(label, int | np.integer) and not isinstance(label, bool)
    if isinstance(label, Tensor | np.ndarray) and label.ndim <= 1 and label.shape in ((), (1,)):
        label = label.item()
        whole = isinstance(label, int) and not isinstance(label, bool)
    if not whole or not 0 <= label < MAX_CLASSES:
        raise BadInput(field, label, f"a label that is a class number, a whole number from 0 (item {position})")
    return int(label)


def _from_tensors(tensors: tuple[Tensor, ...], field: str) -> tuple[Tensor, Tensor]:
    """The same without a step for each item."""
    if len(tensors) != 2:
        raise BadInput(field, f"TensorDataset of {len(tensors)} tensors", "two tensors, images and labels")
    images, labels = (tensor.detach().cpu() for tensor in tensors)
    if not len(images):
        raise BadInput(field, "TensorDataset", "at least 1 sample, but there is none")
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise BadInput(
            field, f"{labels.dtype} {list(labels.shape)}", "labels that are class numbers, whole numbers [N]"
        )
    outside = (labels < 0) | (labels >= MAX_CLASSES)
    if bool(outside.any()):
        position = int(outside.nonzero()[0, 0])
        raise BadInput(field, int(labels[position]), f"class numbers from 0 (item {position})")
    first = _array(images[0], field, 0)  # the checks of one image hold for all
    return images.reshape(len(images), *first.shape), labels.long()


def _class_names(dataset: Any) -> tuple[str, ...] | None:
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None
