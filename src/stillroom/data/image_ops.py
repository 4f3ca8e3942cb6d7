"""Operations on batches of images with parameters for each image: torchvision's formulas, whose own take one a call.

Each is a pure function of its image and parameters, whatever the batch: no sum depends on the batch's size. Images are
uint8 [B, C, H, W]; the geometric ones, erasing and mixing take floats as well. Parameters are [B], on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def as_column(values: npt.NDArray[Any], images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """A parameter of each image as [B, 1, 1, 1] on the images' device."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(images.device, dtype, non_blocking=True)[
        :, None, None, None
    ]


def _as_float(images: Tensor) -> Tensor:
    return images if images.dtype in (torch.float32, torch.float64) else images.float()


def _as_given(values: Tensor, images: Tensor) -> Tensor:
    """Values rounded to the images' type."""
    return values.to(images.dtype) if images.is_floating_point() else values.round_().to(images.dtype)


def resized_crop(images: Tensor, top: Integers, left: Integers, height: Integers, width: Integers) -> Tensor:
    """A part of each image, resized to the image's size, bilinear; nothing beyond the part counts.

    The part being no larger than the image, antialiasing changes nothing.

    >>> images = torch.tensor([[[[0, 100], [0, 100]]]], dtype=torch.uint8)
    >>> one, zero = np.array([1]), np.array([0])
    >>> resized_crop(images, zero, one, one + 1, one).flatten().tolist()
    [100, 100, 100, 100]
    """
    rows, columns = images.shape[2:]

    def places(start: Integers, length: Integers, size: int) -> Tensor:
        """Where each pixel of the result lies in the image, in grid_sample's coordinates: float32 [B, size]."""
        inside = (np.arange(size) + 0.5) * (length / size)[:, None] - 0.5
        place = start[:, None] + np.clip(inside, 0, (length - 1)[:, None])
        return torch.from_numpy(((2 * place + 1) / size - 1).astype(np.float32))

    y, x = places(top, height, rows), places(left, width, columns)
    grid = torch.stack([x[:, None].expand(-1, rows, -1), y[:, :, None].expand(-1, -1, columns)], -1)
    return _sample(images, grid.to(images.device, non_blocking=True), "bilinear", "border")


def affine(images: Tensor, matrix: Floats, mode: str = "nearest") -> Tensor:
    """Each image at the places that its matrix maps the pixels of the result to, 0 beyond the image.

    Args:
        matrix: [B, 2, 3], of (x, y, 1) in pixels from the middle.
        mode: ``nearest`` or ``bilinear``.
    """
    rows, columns = images.shape[2:]
    scaled = matrix / np.array([0.5 * columns, 0.5 * rows])[:, None]
    (a, b, c), (d, e, f) = (
        [as_column(scaled[:, row, column], images)[:, 0] for column in range(3)] for row in range(2)
    )
    x = torch.arange(columns, device=images.device) - (columns - 1) * 0.5
    y = (torch.arange(rows, device=images.device) - (rows - 1) * 0.5)[:, None]
    return _sample(images, torch.stack([x * a + y * b + c, x * d + y * e + f], -1), mode, "zeros")


def _sample(images: Tensor, grid: Tensor, mode: str, beyond: str) -> Tensor:
    values = _as_float(images)
    made = F.grid_sample(values, grid.to(values.dtype), mode=mode, padding_mode=beyond, align_corners=False)
    return _as_given(made, images)


def rotation_matrix(degrees: Floats) -> Floats:
    """Of :func:`affine`, that turns each image by so much, counter-clockwise: [B, 2, 3]."""
    angle, zero = np.deg2rad(degrees), np.zeros(len(degrees))
    rows = [[np.cos(angle), -np.sin(angle), zero], [np.sin(angle), np.cos(angle), zero]]
    return np.stack([np.stack(row, -1) for row in rows], 1)


def _blend(images: Tensor, other: Tensor | float, factor: Floats) -> Tensor:
    """factor · images + (1 − factor) · other, cut off to whole levels in 0 … 255, as torchvision does."""
    ratio = as_column(factor, images)
    # Products and sums apart, so that each is rounded alike in any part of a batch.
    return ((images * ratio) + (other * (1 - ratio))).clamp_(0, 255).to(images.dtype)


def _luma(images: Tensor) -> Tensor:
    """0.2989 R + 0.587 G + 0.114 B, in whole levels: float32 [B, 1, H, W]."""
    if images.shape[1] != 3:
        return images.float()
    red, green, blue = images.float().unbind(1)
    return ((red * 0.2989 + green * 0.587) + blue * 0.114).floor_()[:, None]


def adjust_brightness(images: Tensor, factor: Floats) -> Tensor:
    """Each image multiplied by its factor."""
    return _blend(images, 0.0, factor)


def adjust_contrast(images: Tensor, factor: Floats) -> Tensor:
    """Each image's distance from its mean grey multiplied by its factor."""
    grey = _luma(images)
    # Whole numbers: their sum is exact, in whatever order.
    mean = grey.flatten(1).sum(1, dtype=torch.float64) / grey[0].numel()
    return _blend(images, mean.float()[:, None, None, None], factor)


def adjust_saturation(images: Tensor, factor: Floats) -> Tensor:
    """Each image's distance from its own grey multiplied by its factor; grey images stay as they are."""
    return _blend(images, _luma(images), factor) if images.shape[1] == 3 else images


def adjust_hue(images: Tensor, shift: Floats) -> Tensor:
    """Each image's hue turned by its share of the colour circle; grey images stay as they are."""
    if images.shape[1] != 3:
        return images
    pixels = images.float() / 255
    low, high = torch.aminmax(pixels, dim=1)
    spread = high - low
    grey = spread == 0
    distance = (high[:, None] - pixels) / torch.where(grey, 1.0, spread)[:, None]
    red, green, blue = distance.unbind(1)
    from_red, from_green = blue - green, (red + 2) - blue
    hue = torch.where(high == pixels[:, 0], from_red, torch.where(high == pixels[:, 1], from_green, (green + 4) - red))
    hue = ((hue / 6 + 1).fmod_(1) + as_column(shift, images)[:, 0]).remainder_(1) * 6
    saturation = spread / torch.where(grey, 1.0, high)
    # The channel n of hue h: v − v·s·clamp(min(k, 4 − k), 0, 1), k = (n + h) mod 6.
    channels = []
    for offset in (5, 3, 1):
        place = (hue + offset).remainder_(6)
        channels.append(high - high * saturation * torch.minimum(place, 4 - place).clamp_(0, 1))
    return (torch.stack(channels, 1) * (256 - 1e-3)).clamp_(0, 255).to(images.dtype)


def adjust_sharpness(images: Tensor, factor: Floats) -> Tensor:
    """Each image blended with a smoothed one by its factor; the outermost pixels stay as they are."""
    if min(images.shape[2:]) <= 2:
        return images
    pixels = images.float()
    rows = pixels[:, :, :-2] + pixels[:, :, 1:-1] + pixels[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    middle = pixels[:, :, 1:-1, 1:-1]
    smooth = ((total + 4 * middle) / 13).round_()
    middle += (smooth - middle) * (1 - as_column(factor, images))
    return pixels.clamp_(0, 255).to(images.dtype)


def posterize(images: Tensor, bits: Integers) -> Tensor:
    """The highest bits of each pixel alone."""
    mask = (255 << (8 - bits)) & 255
    return images & as_column(mask, images, torch.uint8)


def solarize(images: Tensor, threshold: Floats) -> Tensor:
    """Pixels from each image's threshold on inverted."""
    return torch.where(images >= as_column(threshold, images), 255 - images, images)


def autocontrast(images: Tensor) -> Tensor:
    """Each channel stretched so that its darkest pixel is 0 and its brightest 255."""
    pixels = images.float()
    low, high = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    flat = high == low
    step = torch.where(flat, 1.0, (high - low) * (1 / 255))
    return ((pixels - torch.where(flat, 0.0, low)) / step).clamp_(0, 255).to(images.dtype)


def equalize(images: Tensor) -> Tensor:
    """Each channel's levels spread so that they are equally frequent, by Pillow's rule."""
    levels = images.flatten(2).long()
    histogram = levels.new_zeros(*levels.shape[:2], 256).scatter_add_(2, levels, torch.ones_like(levels))
    total = histogram.cumsum(2)
    largest = histogram.gather(2, total.argmax(2, keepdim=True))
    step = (levels.shape[2] - largest).div(255, rounding_mode="floor")
    table = (total[..., :-1] + step // 2).div(step.clamp(min=1), rounding_mode="floor").clamp_(0, 255)
    table = F.pad(table, (1, 0)).to(images.dtype)
    made = table.gather(2, levels).view_as(images)
    return torch.where(step[..., None] != 0, made, images)


def to_grayscale(images: Tensor) -> Tensor:
    """RGB images without colour, in three equal channels; grey images stay as they are."""
    return _luma(images).to(images.dtype).expand_as(images) if images.shape[1] == 3 else images


def gaussian_blur(images: Tensor, sigma: Floats, size: int) -> Tensor:
    """Each image blurred by its own standard deviation, in pixels, mirrored at the borders.

    Args:
        size: side of the kernel, odd.
    """
    size = min(size, 2 * min(images.shape[2:]) - 1)  # mirrored once at most
    half = size // 2
    # torchvision's kernel.
    limit = (size - 1) / (2 * 2**0.5)
    weights = -((np.linspace(-limit, limit, size) / sigma[:, None]) ** 2)
    weights = np.exp(weights - weights.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    columns = [as_column(weights[:, place], images) for place in range(size)]
    values = images.float()
    for dim in (2, 3):
        padded = F.pad(values, (half, half, 0, 0) if dim == 3 else (0, 0, half, half), mode="reflect")
        values = torch.zeros_like(values)
        for place, column in enumerate(columns):
            values += padded.narrow(dim, place, images.shape[dim]) * column
    return _as_given(values, images)


def inside(images: Tensor, top: Integers, left: Integers, height: Integers, width: Integers) -> Tensor:
    """Which pixels lie in each image's rectangle, bool [B, 1, H, W]."""
    rows, columns = (
        torch.from_numpy((place >= start[:, None]) & (place < (start + length)[:, None])).to(images.device)
        for place, start, length in (
            (np.arange(images.shape[2]), top, height),
            (np.arange(images.shape[3]), left, width),
        )
    )
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def mix(images: Tensor, partners: Tensor, share: Floats) -> Tensor:
    """share · images + (1 − share) · partners, rounded to the images' type."""
    own = as_column(share, images, torch.float32)
    return _as_given(_as_float(images) * own + _as_float(partners) * (1 - own), images)


def on_rows(images: Tensor, chosen: npt.NDArray[np.bool_], function: Callable[..., Tensor], *parameters: Any) -> Tensor:
    """The images with the function applied to the chosen ones, with their parameters ([B] arrays)."""
    if not chosen.any():
        return images
    if chosen.all():
        return function(images, *parameters)
    rows = torch.from_numpy(np.flatnonzero(chosen)).to(images.device, non_blocking=True)
    made = function(images.index_select(0, rows), *(each[chosen] for each in parameters))
    return images.index_copy(0, rows, made)
