"""Crop, flip and cutout of whole batches: a pure function of (augmentation seed, view, sample index)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.data.config import AugmentationConfig
from stillroom.data.images import ImageSet
from stillroom.data.tokens import Tokenization, text_view
from stillroom.errors import BadInput
from stillroom.randomness import counter_uniform

# A stream for each quantity, so that one never depends on another.
_SHIFT_Y, _SHIFT_X, _FLIP, _CUTOUT_Y, _CUTOUT_X, _BEGINS_MIRRORED = range(6)


def view_of(epoch: int, config: AugmentationConfig) -> int:
    """The view that an epoch shows: epoch mod views, or the epoch itself where views is 0.

    >>> [view_of(epoch, AugmentationConfig(views=2)) for epoch in range(4)]
    [0, 1, 0, 1]
    """
    return epoch % config.views if config.views else epoch


def check_augmentable(images: ImageSet, config: AugmentationConfig) -> None:
    """Refuse an augmentation that these images cannot have.

    >>> rows = ImageSet(torch.randn(2, 3), torch.tensor([0, 1]), ("a", "b"), "mine")
    >>> check_augmentable(rows, AugmentationConfig(flip=True))
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: data.augmentation: got 'flip'; expected pad_crop 0, flip false and cutout 0: a sample of
    'mine' is [3], not an image [C, H, W]
    """
    wanted = [name for name in ("pad_crop", "flip", "cutout") if getattr(config, name)]
    if config.of_text and images.tokens is None:
        raise BadInput("data.augmentation", ", ".join(config.of_text), f"0: {images.name!r} are images, not texts")
    if not wanted:
        return
    shape = list(images.images.shape[1:])
    if len(shape) != 3 or shape[2] == 1:
        got = f"a sample of {images.name!r} is {shape}, not an image [C, H, W]"
        raise BadInput("data.augmentation", ", ".join(wanted), f"pad_crop 0, flip false and cutout 0: {got}")
    side = min(shape[1:])
    for name in ("pad_crop", "cutout"):
        if getattr(config, name) >= side:
            raise BadInput(
                f"data.augmentation.{name}", getattr(config, name), f"less than the images' shorter side, {side} pixels"
            )


def augment(images: Tensor, index: npt.NDArray[np.int64] | Tensor, config: AugmentationConfig, view: int) -> Tensor:
    """A batch of augmented images, the same pixels for the same (seed, view, index) in any batch at any time.

    With p = ``pad_crop``, the image is padded by p zeros on each side and cropped back at (y, x), each uniform in
    0 … 2p; with ``flip`` it is mirrored left to right with probability 1/2, or with ``flip: alternate`` in every second
    view, half of the images in the odd ones (arXiv 2404.00498); with c = ``cutout``, rows y−⌊c/2⌋ … y−⌊c/2⌋+c−1 and the
    like columns around a uniform pixel (y, x) are set to 0. In this order. Floats keep their type and values: 0 is then
    whatever 0 means in them.

    Args:
        images: the whole set, uint8 or floats [N, C, H, W], on any device; any tensor where nothing is asked for.
        index: the samples of the batch, int64 [B], on the CPU.

    Returns:
        [B, C, H, W], of the type and on the device of ``images``.

    >>> images = torch.arange(4, dtype=torch.uint8).reshape(1, 1, 2, 2)
    >>> [augment(images, np.array([0]), AugmentationConfig(flip=True), view).flatten().tolist() for view in (0, 1)]
    [[1, 0, 3, 2], [0, 1, 2, 3]]
    """
    samples = np.array(index.numpy() if isinstance(index, Tensor) else index, dtype=np.int64)
    return _augment(images, samples, samples, config, view)


def augment_batch(
    batch: Tensor,
    samples: npt.NDArray[np.int64],
    config: AugmentationConfig,
    view: int,
    tokens: Tokenization | None = None,
) -> Tensor:
    """The same of images that were gathered before: ``augment_batch(images[index], index, …)`` is
    ``augment(images, index, …)``.

    Args:
        batch: uint8 or floats [B, C, H, W], on any device; any tensor where nothing is asked for.
        samples: which sample each one is, int64 [B], on the CPU.
        tokens: of texts, what their ids mean; ``batch`` is then int32 [B, L], and :func:`text_view` makes the view.

    Returns:
        [B, C, H, W], of the type and on the device of ``batch``; the batch itself where nothing is asked for.

    >>> images, config = torch.arange(24, dtype=torch.uint8).reshape(6, 1, 2, 2), AugmentationConfig(flip=True)
    >>> index = np.array([5, 0])
    >>> torch.equal(augment_batch(images[index], index, config, view=3), augment(images, index, config, view=3))
    True
    """
    if len(batch) != len(samples):
        raise ValueError(f"got {len(batch)} images of {len(samples)} samples; expected as many of each")
    if tokens is not None:
        return text_view(batch, samples, config, view, tokens)
    if not config.changes:
        return batch
    return _augment(batch, np.arange(len(batch)), samples, config, view)


def _mirrored(samples: npt.NDArray[np.int64], config: AugmentationConfig, view: int) -> npt.NDArray[np.bool_]:
    """Which samples are mirrored in a view, bool [B]."""
    if config.flip == "alternate":
        # The draw is the same in every view (it is addressed as view 0); the view's parity makes it alternate.
        begins = counter_uniform(config.seed, 0, samples, _BEGINS_MIRRORED) < 0.5
        return begins ^ bool(view % 2)
    if config.flip:
        return counter_uniform(config.seed, view, samples, _FLIP) < 0.5
    return np.zeros(len(samples), dtype=bool)


def _augment(
    images: Tensor, rows: npt.NDArray[np.int64], samples: npt.NDArray[np.int64], config: AugmentationConfig, view: int
) -> Tensor:
    """The images at ``rows``, augmented as the given samples."""
    if not config.changes or not len(rows):
        return images.index_select(0, _move(rows, images.device))
    if images.ndim != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
        got = f"{images.dtype} {list(images.shape)}"
        raise BadInput("data.augmentation", got, "uint8 or float images [N, C, H, W]")

    def draw(what: int) -> npt.NDArray[np.float64]:
        return counter_uniform(config.seed, view, samples, what)

    # The mirrored ones are put last, so that one slice is mirrored; a choice for each pixel costs several times that.
    mirrored = _mirrored(samples, config, view)
    order = np.argsort(mirrored, kind="stable")
    batch = images.index_select(0, _move(rows[order], images.device))
    if config.pad_crop:
        positions = 2 * config.pad_crop + 1
        y, x = ((draw(what) * positions).astype(np.int64)[order] for what in (_SHIFT_Y, _SHIFT_X))
        batch = _crop(batch, y, x, config.pad_crop)
    if config.flip:
        kept = len(samples) - int(mirrored.sum())
        batch = torch.cat([batch[:kept], batch[kept:].flip(-1)])
        batch = batch.index_select(0, _move(np.argsort(order), images.device))
    if config.cutout:
        height, width = batch.shape[2:]
        in_rows = _covered((draw(_CUTOUT_Y) * height).astype(np.int64), height, config.cutout)
        in_columns = _covered((draw(_CUTOUT_X) * width).astype(np.int64), width, config.cutout)
        # Products of bytes; the same with booleans takes twice as long.
        hole = _move(in_rows, batch.device)[:, None, :, None] * _move(in_columns, batch.device)[:, None, None, :]
        batch = batch.mul_(1 - hole) if batch.dtype == torch.uint8 else batch.masked_fill_(hole.bool(), 0)
    return batch.contiguous()


def _crop(batch: Tensor, y: npt.NDArray[np.int64], x: npt.NDArray[np.int64], pad: int) -> Tensor:
    """Windows of the zero-padded images at (y, x), each 0 … 2·pad: [B, C, H, W], not contiguous.

    Each row is padded on its left and each image on its top only: memory being one line, the right of a row is the left
    padding of the next, and below an image is the top padding of the next. A window is then one unbroken piece of
    memory that begins at (y, x), and the whole batch one ``index_select`` over overlapping pieces.
    """
    count, channels, height, width = batch.shape
    line = width + pad
    piece = channels * (height + pad) * line
    furthest = 2 * pad * (line + 1)
    padded = batch.new_zeros(count * piece + furthest)
    grid = padded[: count * piece].view(count, channels, height + pad, line)
    grid[:, :, pad:, pad:] = batch
    begins = np.arange(count) * piece + y * line + x
    pieces = padded.as_strided((len(padded) - piece + 1, piece), (1, 1))
    windows = pieces.index_select(0, _move(begins, batch.device)).view(count, channels, height + pad, line)
    return windows[:, :, :height, :width]


def _covered(centre: npt.NDArray[np.int64], size: int, side: int) -> npt.NDArray[np.uint8]:
    """1 where a stretch of ``side`` around each centre covers one of ``size`` places, else 0: uint8 [B, size]."""
    offset = np.arange(size) - (centre - side // 2)[:, None]
    return ((offset >= 0) & (offset < side)).view(np.uint8)


def _move(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    # Not waiting for the copy keeps the CPU ahead of the GPU.
    return torch.from_numpy(array).to(device, non_blocking=True)
