"""The grid over an image: which pixels a cell has, in one place for the noise, its gradients and the foregrounds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stillroom.errors import BadInput


@dataclass(frozen=True, eq=False)
class Grid:
    """g×g cells over images of H×W pixels: pixel (y, x) belongs to cell (⌊y·g/H⌋, ⌊x·g/W⌋), as in nearest upsampling.

    Attributes:
        cells: g, the cells along a side.
        rows: which row of cells each row of pixels is in, one-hot [g, H].
        columns: the same of columns, [W, g].

    >>> grid = make_grid(2, 2, 4)
    >>> grid.spread(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[1.0, 1.0, 2.0, 2.0], [3.0, 3.0, 4.0, 4.0]]
    >>> grid.gather(torch.ones(2, 4)).tolist()
    [[2.0, 2.0], [2.0, 2.0]]
    """

    cells: int
    rows: Tensor
    columns: Tensor

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
    """Lay g×g cells over images of a size.

    Args:
        cells: g.
        height: H, in pixels.
        width: W, in pixels.
        device: where its tensors lie.

    Raises:
        BadInput: a cell would have no pixel.
    """
    if not 1 <= cells <= min(height, width):
        raise BadInput("grid", cells, f"1 to {min(height, width)} cells along a side, as images have {height}×{width}")
    sides = []
    for size in (height, width):
        cell_of = torch.arange(size, device=device) * cells // size
        sides.append((cell_of == torch.arange(cells, device=device)[:, None]).float())
    return Grid(cells, sides[0], sides[1].T.contiguous())
