"""Images that are read when they are asked for: what a set of them must be able to do."""

from __future__ import annotations

from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Rows = slice | Tensor | npt.NDArray[np.int64]


class LazyImages(Protocol):
    """Stands where a uint8 tensor [N, C, H, W] could, without holding its pixels.

    What is read here or there, then or now, on one thread or many, is the same.
    """

    @property
    def shape(self) -> torch.Size:
        """N, C, H, W."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Always uint8."""
        ...

    @property
    def ndim(self) -> int:
        """Always 4."""
        ...

    @property
    def workers(self) -> int:
        """Number of threads that read, where nothing else is said."""
        ...

    def __len__(self) -> int:
        """N."""
        ...

    def __getitem__(self, rows: Rows) -> Tensor:
        """Some of the images, uint8 [n, C, H, W] on the CPU; rows as a tensor takes them."""
        ...

    def read(self, row: int) -> npt.NDArray[np.uint8]:
        """One image, uint8 [C, H, W]; called by several threads at once."""
        ...

    def select(self, rows: npt.NDArray[np.int64]) -> Self:
        """The same without the other rows; nothing is read."""
        ...

    def content_hash(self) -> bytes:
        """SHA-256 of all that the pixels come from: equal only for equal images."""
        ...


Images = Tensor | LazyImages


def fill(batch: npt.NDArray[np.uint8], images: LazyImages, rows: npt.NDArray[np.int64], places: range) -> None:
    """Read image rows[p] into batch[p] for each place p: one thread's share of a batch.

    Args:
        batch: uint8 [B, C, H, W].
        images: where they are read from.
        rows: which images the batch is made of, int64 [B].
        places: those to fill now.
    """
    for place in places:
        batch[place] = images.read(int(rows[place]))
