"""The grid of cells over an image, and foreground masks brought onto it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stillroom.errors import BadInput


@dataclass(frozen=True, eq=False)
class Grid:
    """g×g cells over images of H×W pixels: pixel (y, x) belongs to cell (⌊y·g/H⌋, ⌊x·g/W⌋), as in nearest upsampling.

    >>> grid = make_grid(2, 2, 4)
    >>> grid.spread(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[1.0, 1.0, 2.0, 2.0], [3.0, 3.0, 4.0, 4.0]]
    >>> grid.gather(torch.ones(2, 4)).tolist()
    [[2.0, 2.0], [2.0, 2.0]]
    """

    cells: int  # g, the cells along a side
    rows: Tensor  # which row of cells each row of pixels is in, one-hot [g, H]
    columns: Tensor  # the same of columns, [W, g]

    def spread(self, cells: Tensor) -> Tensor:
        """Give each pixel its cell's value: [..., g, g] → [..., H, W]."""
        return cells[..., self.rows.argmax(0), :][..., self.columns.argmax(1)]

    def gather(self, pixels: Tensor) -> Tensor:
        """Add up each cell's pixels: [..., H, W] → [..., g, g]."""
        return self.rows @ pixels @ self.columns

    @property
    def areas(self) -> Tensor:
        """How many pixels each cell has, [g, g]."""
        return self.rows.sum(1)[:, None] * self.columns.sum(0)


def make_grid(cells: int, height: int, width: int, device: torch.device | str = "cpu") -> Grid:
    """Lay g×g cells over images of a size."""
    if not 1 <= cells <= min(height, width):
        raise BadInput("grid", cells, f"1 to {min(height, width)} cells along a side, as images have {height}×{width}")
    sides = []
    for size in (height, width):
        cell_of = torch.arange(size, device=device) * cells // size
        sides.append((cell_of == torch.arange(cells, device=device)[:, None]).float())
    return Grid(cells, sides[0], sides[1].T.contiguous())


def on_grid(masks: Tensor, grid: int) -> Tensor:
    """Bring masks of pixels to the grid: a cell is foreground if at least half of its pixels are.
    The paper's code takes one pixel of each cell instead.

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


def check_masks(masks: Tensor, images: Tensor) -> Tensor:
    """Check that masks are those of the images, and leave each of them some background; returns the masks.

    Args:
        masks: bool [B, H, W].
        images: [B, C, H, W].

    >>> check_masks(torch.ones(1, 4, 4, dtype=torch.bool), torch.zeros(1, 3, 4, 4))
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
