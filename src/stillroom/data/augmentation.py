"""Augmentation of whole batches: a pure function of (augmentation seed, view, sample index)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.data import image_ops as ops
from stillroom.data.config import AugmentationConfig, ColorJitterConfig
from stillroom.data.images import ImageSet
from stillroom.data.tokens import Tokenization, text_view
from stillroom.errors import BadInput
from stillroom.randomness import counter_uniform

# A stream for each quantity, so that one never depends on another.
_SHIFT_Y, _SHIFT_X, _FLIP, _CUTOUT_Y, _CUTOUT_X, _BEGINS_MIRRORED = range(6)
_ROTATION, _GRAYSCALE, _BLUR, _BLUR_SIGMA, _ERASING, _PARTNER, _MIX, _MIX_KIND, _MIX_Y, _MIX_X = range(10, 20)
_JITTER = 30  # one for each quantity, then four for their order
_CROP, _ERASED = 100, 200  # two for each attempt, then two for the place
_OPERATION = 300  # three for each operation of RandAugment
_ATTEMPTS = 10
_PIXELS_ONLY = ("trivial_augment", "randaugment", "color_jitter", "grayscale", "blur", "random_erasing")
# Images at a time on a CPU, so that what lies between two operations stays in the processor's cache.
_AT_ONCE = 8

Draw = Callable[[int], npt.NDArray[np.float64]]


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
    stillroom.errors.BadInput: data.augmentation: got 'flip'; expected none: a sample of 'mine' is [3], not an image
    [C, H, W]
    """
    mixes_rows = ("mixup",) if images.tokens is None else ()
    wanted = [name for name in config.parts if name not in (*config.of_text, *mixes_rows, "of_dataset")]
    if config.of_text and images.tokens is None:
        raise BadInput("data.augmentation", ", ".join(config.of_text), f"0: {images.name!r} are images, not texts")
    if not wanted:
        return
    shape = list(images.images.shape[1:])
    if len(shape) != 3 or shape[2] == 1:
        got = f"a sample of {images.name!r} is {shape}, not an image [C, H, W]"
        raise BadInput("data.augmentation", ", ".join(wanted), f"none: {got}")
    for name in (each for each in wanted if each in _PIXELS_ONLY):
        if not images.is_pixels:
            raise BadInput(
                f"data.augmentation.{name}", getattr(config, name), "none: the images are floats, not pixels"
            )
        if shape[0] not in (1, 3):
            expected = f"none: the images have {shape[0]} channels, neither 1 nor 3"
            raise BadInput(f"data.augmentation.{name}", getattr(config, name), expected)
    side = min(shape[1:])
    for name in ("pad_crop", "cutout"):
        if getattr(config, name) >= side:
            raise BadInput(
                f"data.augmentation.{name}", getattr(config, name), f"less than the images' shorter side, {side} pixels"
            )


def augment(images: Tensor, index: npt.NDArray[np.int64] | Tensor, config: AugmentationConfig, view: int) -> Tensor:
    """A batch of augmented images, the same pixels for the same (seed, view, index) in any batch at any time.

    With p = ``pad_crop``, the image is padded by p zeros on each side, or with ``pad_mode: reflect`` by itself,
    mirrored at its edges, and cropped back at (y, x), each uniform in 0 … 2p; with ``flip`` it is mirrored left to
    right with probability 1/2, or with ``flip: alternate`` in every second view, half of the images in the odd ones
    (arXiv 2404.00498); with c = ``cutout``, rows y−⌊c/2⌋ … y−⌊c/2⌋+c−1 and the like columns around a uniform pixel (y,
    x) are set to 0. In this order. Floats keep their type and values: 0 is then whatever 0 means in them.

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
    if config.parts in ((), ("of_dataset",)):
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
    if images.device.type == "cpu" and len(rows) > _AT_ONCE and len(config.parts) > len(_cheap(config)):
        pieces = (slice(start, start + _AT_ONCE) for start in range(0, len(rows), _AT_ONCE))
        return torch.cat([_augment(images, rows[piece], samples[piece], config, view) for piece in pieces])
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
        batch = _crop(batch, y, x, config.pad_crop, reflect=config.pad_mode == "reflect")
    if config.random_resized_crop:
        scale, ratio = config.random_resized_crop.scale, config.random_resized_crop.ratio
        size, (least, most) = batch.shape[2:], ratio
        across, down, fits = _rectangles(draw, _CROP, (size[1], size[0]), scale, ratio)
        # As torchvision: where no attempt fits, the largest part in the middle that has such a ratio.
        whole = size[1] / size[0]
        across = np.where(fits, across, size[1] if whole <= most else round(size[0] * most))
        down = np.where(fits, down, size[0] if whole >= least else round(size[1] / least))
        first, left = _places(draw, _CROP, size, down, across, ~fits)
        batch = ops.resized_crop(batch, first[order], left[order], down[order], across[order])
    if config.flip:
        kept = len(samples) - int(mirrored.sum())
        batch = torch.cat([batch[:kept], batch[kept:].flip(-1)])
        batch = batch.index_select(0, _move(np.argsort(order), images.device))
    if config.rotation:
        angle = (2 * draw(_ROTATION) - 1) * config.rotation
        batch = ops.affine(batch, ops.rotation_matrix(angle), "bilinear")
    if config.trivial_augment:
        which, strength, negative = (draw(_OPERATION + each) for each in range(3))
        batch = auto_augment(batch, (which * 14).astype(int), (strength * 31).astype(int), negative < 0.5, wide=True)
    if config.randaugment:
        magnitude = np.full(len(samples), config.randaugment.magnitude)
        for stream in range(_OPERATION, _OPERATION + 3 * config.randaugment.num_ops, 3):
            batch = auto_augment(batch, (draw(stream) * 14).astype(int), magnitude, draw(stream + 2) < 0.5, wide=False)
    if config.color_jitter:
        batch = _jitter(batch, config.color_jitter, draw)
    if config.grayscale:
        batch = ops.on_rows(batch, draw(_GRAYSCALE) < config.grayscale, ops.to_grayscale)
    if config.blur:
        low, high = config.blur.sigma
        kernel = config.blur.kernel_size or max(min(batch.shape[2:]) // 20 * 2 + 1, 3)
        blur = partial(ops.gaussian_blur, size=kernel)
        batch = ops.on_rows(batch, draw(_BLUR) < config.blur.p, blur, low + (high - low) * draw(_BLUR_SIGMA))
    if config.cutout:
        height, width = batch.shape[2:]
        in_rows = _covered((draw(_CUTOUT_Y) * height).astype(np.int64), height, config.cutout)
        in_columns = _covered((draw(_CUTOUT_X) * width).astype(np.int64), width, config.cutout)
        # Products of bytes; the same with booleans takes twice as long.
        hole = _move(in_rows, batch.device)[:, None, :, None] * _move(in_columns, batch.device)[:, None, None, :]
        batch = batch.mul_(1 - hole) if batch.dtype == torch.uint8 else batch.masked_fill_(hole.bool(), 0)
    if erasing := config.random_erasing:
        size = batch.shape[2:]
        down, across, fits = _rectangles(draw, _ERASED, (size[0] - 1, size[1] - 1), erasing.scale, erasing.ratio, size)
        fits &= draw(_ERASING) < erasing.p
        top, left = _places(draw, _ERASED, size, down, across, ~fits)
        erased = ops.inside(batch, top, left, np.where(fits, down, 0), across)
        batch = batch.masked_fill(erased, erasing.value)
    return batch.contiguous()


def _cheap(config: AugmentationConfig) -> list[str]:
    return [n for n in config.parts if n in ("pad_crop", "flip", "cutout", "mixup", "cutmix", "of_dataset")]


def _rectangles(
    draw: Draw,
    stream: int,
    limits: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    size: tuple[int, ...] | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Sides of each image's rectangle: the first of ten attempts that fits, and whether one does.

    Args:
        limits: the longest that the sides may be, the one over the ratio's line first.
        size: of the image, where it is not the limits.
    """
    whole = float(np.prod(size or limits))
    share, shape = (np.stack([draw(stream + 2 * k + each) for k in range(_ATTEMPTS)]) for each in range(2))
    area = whole * (scale[0] + (scale[1] - scale[0]) * share)
    aspect = np.exp(np.log(ratio[0]) + (np.log(ratio[1]) - np.log(ratio[0])) * shape)
    first, second = (np.round(np.sqrt(each)).astype(np.int64) for each in (area * aspect, area / aspect))
    fits = (first > 0) & (first <= limits[0]) & (second > 0) & (second <= limits[1])
    chosen = fits.argmax(0)[None]
    return (
        np.take_along_axis(first, chosen, 0)[0],
        np.take_along_axis(second, chosen, 0)[0],
        fits.any(0),
    )


def _places(
    draw: Draw,
    stream: int,
    size: tuple[int, ...],
    height: npt.NDArray[np.int64],
    width: npt.NDArray[np.int64],
    middle: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The first row and column of each rectangle: uniform where it fits, or in the middle."""
    top, left = (
        np.where(middle, (whole - side) // 2, (draw(stream + 2 * _ATTEMPTS + place) * (whole - side + 1)).astype(int))
        for place, (whole, side) in enumerate(zip(size, (height, width), strict=True))
    )
    return top, left


def _jitter(batch: Tensor, config: ColorJitterConfig, draw: Draw) -> Tensor:
    """The changes of colour, in an order of each image's own."""
    changes = {
        ops.adjust_brightness: (1.0, config.brightness),
        ops.adjust_contrast: (1.0, config.contrast),
        ops.adjust_saturation: (1.0, config.saturation),
        ops.adjust_hue: (0.0, config.hue),
    }
    order = np.argsort([draw(_JITTER + 4 + place) for place in range(4)], axis=0)
    for now in order:
        for place, (change, (middle, most)) in enumerate(changes.items()):
            if most:
                batch = ops.on_rows(batch, now == place, change, middle + (2 * draw(_JITTER + place) - 1) * most)
    return batch


# Of the largest strength: RandAugment's, TrivialAugment Wide's.
_SHEAR, _ANGLE, _COLOUR, _BITS = (0.3, 0.99), (30.0, 135.0), (0.9, 0.99), (4, 6)


def auto_augment(
    batch: Tensor,
    which: npt.NDArray[np.int64],
    strength: npt.NDArray[np.int64],
    negative: npt.NDArray[np.bool_],
    *,
    wide: bool,
) -> Tensor:
    """One operation of RandAugment, or of TrivialAugment Wide, on each image, as torchvision has them.

    Args:
        batch: uint8 [B, C, H, W].
        which: 0 … 13: none, shear in x and y, shift in x and y, rotation, brightness, saturation, contrast, sharpness,
            posterize, solarize, autocontrast, equalize.
        strength: 0 … 30.
        negative: whether the strength of the first nine that have one is turned round.
        wide: whether it is TrivialAugment Wide's.
    """
    rows, columns = batch.shape[2:]
    sign, zero = np.where(negative, -1, 1), np.zeros(len(which))

    def steps(most: float) -> npt.NDArray[np.float64]:
        # In torch's float32, whose last bits decide which whole number a shift is cut off to.
        return torch.linspace(0, most, 31).double().numpy()[strength] * sign

    shear, angle, factor = steps(_SHEAR[wide]), steps(_ANGLE[wide]), 1 + steps(_COLOUR[wide])
    shift_x, shift_y = (np.trunc(steps(32 if wide else 150 / 331 * side)) for side in (columns, rows))
    matrix = ops.rotation_matrix(np.where(which == 5, angle, 0))
    x, y = which == 1, which == 2
    matrix[x, 0, 1], matrix[x, 0, 2] = shear[x], shear[x] * rows / 2
    matrix[y, 1, 0], matrix[y, 1, 2] = shear[y], shear[y] * columns / 2
    matrix[:, 0, 2] -= np.where(which == 3, shift_x, zero)
    matrix[:, 1, 2] -= np.where(which == 4, shift_y, zero)
    batch = ops.on_rows(batch, (which > 0) & (which < 6), ops.affine, matrix)
    for number, change in enumerate(
        (ops.adjust_brightness, ops.adjust_saturation, ops.adjust_contrast, ops.adjust_sharpness), start=6
    ):
        batch = ops.on_rows(batch, which == number, change, factor)
    bits = 8 - np.round(strength / 30 * _BITS[wide]).astype(np.int64)
    batch = ops.on_rows(batch, which == 10, ops.posterize, bits)
    batch = ops.on_rows(batch, which == 11, ops.solarize, 255 * torch.linspace(1, 0, 31).double().numpy()[strength])
    batch = ops.on_rows(batch, which == 12, ops.autocontrast)
    return ops.on_rows(batch, which == 13, ops.equalize)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which training image each sample of a batch is mixed with, and how."""

    partners: npt.NDArray[np.int64]  # int64 [B]
    share: npt.NDArray[np.float64]  # of the sample itself, in pixels and in the label, [B]
    # First row and column, height and width of what comes from the partner; None: the two are blended.
    box: tuple[npt.NDArray[np.int64], ...]
    is_box: npt.NDArray[np.bool_]  # [B]

    def mix(self, images: Tensor, partners: Tensor) -> Tensor:
        """The mixed images, [B, C, H, W] (blended alone: of any shape)."""
        blend = ~self.is_box
        mixed = images
        if blend.any():
            shape = images.shape
            four = (shape[0], 1, 1, -1) if images.ndim != 4 else shape
            share = np.where(blend, self.share, 1.0)
            mixed = ops.mix(images.reshape(four), partners.reshape(four), share).reshape(shape)
        if self.is_box.any():
            mixed = torch.where(ops.inside(images, *self.box), partners, mixed)
        return mixed


def draw_pairs(
    samples: npt.NDArray[np.int64],
    pool: npt.NDArray[np.int64],
    size: tuple[int, ...],
    config: AugmentationConfig,
    view: int,
) -> Pairs:
    """How ``mixup`` and ``cutmix`` pair samples in a view: a pure function of (seed, view, index) and the pool.

    mixup: x = λ·x_i + (1 − λ)·x_j and so the labels, λ ∼ Beta(α, α) for each sample, j uniform in the pool. cutmix: a
    rectangle of sides √(1 − λ) of the image's around a uniform pixel comes from x_j; the label's share is that of the
    pixels. Both images are augmented as themselves in this view.

    Args:
        samples: int64 [B].
        pool: the training images that may be partners, int64 [N].
        size: C, H, W of an image.

    >>> pairs = draw_pairs(np.arange(4), np.arange(100), (3, 8, 8), AugmentationConfig(mixup=1.0), view=0)
    >>> pairs.partners.shape, bool(((0 <= pairs.share) & (pairs.share <= 1)).all())
    ((4,), True)
    """
    from scipy.special import betaincinv  # takes as long to import as many a run's first batch

    def draw(what: int) -> npt.NDArray[np.float64]:
        return counter_uniform(config.seed, view, samples, what)

    is_box = np.full(len(samples), bool(config.cutmix))
    if config.mixup and config.cutmix:
        is_box = draw(_MIX_KIND) < 0.5
    alpha = np.where(is_box, config.cutmix, config.mixup)
    share = betaincinv(alpha, alpha, draw(_MIX))
    box: tuple[npt.NDArray[np.int64], ...] = ()
    if is_box.any():
        half = 0.5 * np.sqrt(1 - share)
        sides = []
        for what, length in ((_MIX_Y, size[1]), (_MIX_X, size[2])):
            centre, reach = (draw(what) * length).astype(np.int64), (half * length).astype(np.int64)
            begin, end = np.maximum(centre - reach, 0), np.minimum(centre + reach, length)
            sides.append((begin, np.where(is_box, end - begin, 0)))
        (top, height), (left, width) = sides
        box = (top, left, height, width)
        share = np.where(is_box, 1 - height * width / (size[1] * size[2]), share)
    partners = pool[(draw(_PARTNER) * len(pool)).astype(np.int64)]
    return Pairs(partners, share, box, is_box)


def _crop(batch: Tensor, y: npt.NDArray[np.int64], x: npt.NDArray[np.int64], pad: int, *, reflect: bool) -> Tensor:
    """Windows of the padded images at (y, x), each 0 … 2·pad: [B, C, H, W], not contiguous.

    With zeros, each row is padded on its left and each image on its top only: memory being one line, the right of a row
    is the left padding of the next, and below an image is the top padding of the next. A window is then one unbroken
    piece of memory that begins at (y, x), and the whole batch one ``index_select`` over overlapping pieces.
    """
    count, channels, height, width = batch.shape
    tall, line = (side + pad * (2 if reflect else 1) for side in (height, width))
    piece = channels * tall * line
    furthest = 2 * pad * (line + 1)
    padded = batch.new_zeros(count * piece + furthest)
    grid = padded[: count * piece].view(count, channels, tall, line)
    if reflect:
        for axis, side in ((2, height), (3, width)):
            batch = batch.index_select(axis, _move(np.pad(np.arange(side), pad, mode="reflect"), batch.device))
        grid[:] = batch
    else:
        grid[:, :, pad:, pad:] = batch
    begins = np.arange(count) * piece + y * line + x
    pieces = padded.as_strided((len(padded) - piece + 1, piece), (1, 1))
    windows = pieces.index_select(0, _move(begins, batch.device)).view(count, channels, tall, line)
    return windows[:, :, :height, :width]


def _covered(centre: npt.NDArray[np.int64], size: int, side: int) -> npt.NDArray[np.uint8]:
    """1 where a stretch of ``side`` around each centre covers one of ``size`` places, else 0: uint8 [B, size]."""
    offset = np.arange(size) - (centre - side // 2)[:, None]
    return ((offset >= 0) & (offset < side)).view(np.uint8)


def _move(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    # Not waiting for the copy keeps the CPU ahead of the GPU.
    return torch.from_numpy(array).to(device, non_blocking=True)
