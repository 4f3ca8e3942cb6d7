"""Images that are read when they are asked for: what a set of them must be able to do."""

from __future__ import annotations

import hashlib
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Rows = slice | Tensor | npt.NDArray[np.int64]

_HASHED = 4096  # images at a time


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


class Chosen:
    """Some rows of images that are held in memory, which are not held twice.

    Args:
        images: [N, C, H, W].
        rows: which of them, int64 [n].

    >>> chosen = Chosen(torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1), np.array([3, 0, 2]))
    >>> len(chosen), chosen[1:].flatten().tolist(), chosen.select(np.array([2]))[:].flatten().tolist()
    (3, [0, 2], [2])
    """

    workers = 1

    def __init__(self, images: Tensor, rows: npt.NDArray[np.int64]) -> None:
        self._images = images
        self._rows = torch.from_numpy(rows)
        self.shape = torch.Size((len(rows), *images.shape[1:]))
        self.dtype = images.dtype
        self.ndim = images.ndim

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"Chosen({len(self)} of {len(self._images)} images of {'×'.join(map(str, self.shape[1:]))})"

    def __getitem__(self, rows: Rows | int) -> Tensor:
        """A copy of some of them; rows as a tensor takes them."""
        wanted = torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows
        return self._images[self._rows[wanted.cpu() if isinstance(wanted, Tensor) else wanted]]

    def read(self, row: int) -> npt.NDArray[np.uint8]:
        """One image, as an array."""
        return np.asarray(self[row].cpu().numpy())

    def select(self, rows: npt.NDArray[np.int64]) -> Chosen:
        """The same without the other rows."""
        return Chosen(self._images, self._rows.numpy()[rows])

    def content_hash(self) -> bytes:
        """SHA-256 of the pixels, as a tensor of them has it."""
        total = hashlib.sha256()
        for start in range(0, len(self), _HASHED):
            total.update(self[start : start + _HASHED].cpu().contiguous().numpy().data.cast("B"))
        return total.digest()


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
