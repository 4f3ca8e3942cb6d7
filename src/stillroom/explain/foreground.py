"""What of an image is its subject: masks, boxes, a centre box, a rule on pixels, each brought to the grid."""

from __future__ import annotations

import torch
from torch import Tensor

from stillroom.errors import BadInput
from stillroom.explain.grid import make_grid


def on_grid(masks: Tensor, grid: int) -> Tensor:
    """Bring masks of pixels to the grid: a cell is foreground where at least half of its pixels are.

    Its pixels are those that its σ is spread over (nearest upsampling). The paper's code takes one pixel of each cell.

    Args:
        masks: bool [B, H, W].
        grid: g.

    Returns:
        bool [B, g, g].

    Raises:
        BadInput: no masks, or fewer pixels than cells along a side.

    >>> pixels = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    >>> on_grid(pixels[None], 2).tolist()
    [[[True, False], [False, False]]]
    """
    if masks.ndim != 3 or masks.dtype != torch.bool:
        raise BadInput("masks", f"{masks.dtype} {list(masks.shape)}", "bool [images, height, width]")
    cells = make_grid(grid, masks.shape[1], masks.shape[2], masks.device)
    covered: Tensor = 2 * cells.gather(masks.float()) >= cells.areas
    return covered


def checked(masks: Tensor, images: Tensor) -> Tensor:
    """The masks, known to be those of images, and to leave each of them some background.

    Args:
        masks: bool [B, H, W].
        images: [B, C, H, W].

    Raises:
        BadInput: they are of another number or size, or all of an image is foreground.

    >>> checked(torch.ones(1, 4, 4, dtype=torch.bool), torch.zeros(1, 3, 4, 4))
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: masks: got 'all of images [0]'; expected some background in each image
    """
    expected = [len(images), *images.shape[2:]]
    if list(masks.shape) != expected:
        raise BadInput("masks", list(masks.shape), f"{expected}, one of its image's size for each image")
    full = torch.nonzero(masks.flatten(1).all(1))[:, 0].tolist()
    if full:
        raise BadInput("masks", f"all of images {full[:8]}", "some background in each image")
    return masks


def from_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Masks of boxes, one an image.

    Args:
        boxes: top, left, bottom, right in pixels, the latter two exclusive, int [B, 4].
        height: H.
        width: W.

    Returns:
        bool [B, H, W].

    Raises:
        BadInput: a box is empty, or not within the image.

    >>> from_boxes(torch.tensor([[0, 1, 1, 3]]), 2, 3).int().tolist()
    [[[0, 1, 1], [0, 0, 0]]]
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.is_floating_point():
        raise BadInput("boxes", f"{boxes.dtype} {list(boxes.shape)}", "whole numbers [images, 4]")
    top, left, bottom, right = boxes.T
    good = (top >= 0) & (top < bottom) & (bottom <= height) & (left >= 0) & (left < right) & (right <= width)
    if not bool(good.all()):
        wrong = int(torch.nonzero(~good)[0, 0])
        expected = f"0 ≤ top < bottom ≤ {height} and 0 ≤ left < right ≤ {width} (image {wrong})"
        raise BadInput("boxes", boxes[wrong].tolist(), expected)
    y, x = torch.arange(height, device=boxes.device), torch.arange(width, device=boxes.device)
    rows = (y >= top[:, None]) & (y < bottom[:, None])
    columns = (x >= left[:, None]) & (x < right[:, None])
    mask: Tensor = rows[:, :, None] & columns[:, None]
    return mask


def centre_box(count: int, grid: int) -> Tensor:
    """The box that the paper takes where nothing is known: cells ⌊g/6⌋ to ⌊5g/6⌋ of each side, both included.

    Args:
        count: B.
        grid: g.

    Returns:
        bool [B, g, g].

    Raises:
        BadInput: a grid so small that the box fills it.

    >>> centre_box(1, 16)[0].any(1).nonzero()[[0, -1], 0].tolist()
    [2, 13]
    """
    first, last = grid // 6, 5 * grid // 6
    if first == 0:
        raise BadInput("grid", grid, "6 or more cells along a side, or the centre box fills it")
    mask = torch.zeros(count, grid, grid, dtype=torch.bool)
    mask[:, first : last + 1, first : last + 1] = True
    return mask


def above_zero(images: Tensor) -> Tensor:
    """Pixels above zero in any channel, as in Fashion-MNIST, whose background is 0.

    Args:
        images: as they are stored, before any preprocess: uint8 [B, C, H, W], or floats.

    Returns:
        bool [B, H, W].

    >>> above_zero(torch.tensor([[[[0, 7]]]], dtype=torch.uint8)).tolist()
    [[[False, True]]]
    """
    if images.ndim != 4:
        raise BadInput("images", list(images.shape), "[B, C, H, W]")
    return (images > 0).any(1)
