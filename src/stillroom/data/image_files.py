"""Image files that are read when they are asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Self, overload

import numpy as np
import numpy.typing as npt
import PIL
import torch
from torch import Tensor

from stillroom.data.decoding import decode_photo, header, told
from stillroom.data.folders import unreadable
from stillroom.data.lazy import Rows, fill
from stillroom.data.stacking import require_memory
from stillroom.data.threads import in_order, spans
from stillroom.errors import BadInput
from stillroom.files import digest

# What a file may be called, and what it may be: some formats that Pillow knows start other programs.
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_JOB = 64  # files that a thread reads in one go


class ImageFiles:
    """Pictures on disk in place of a uint8 tensor [N, C, H, W]: a slice or an index reads those files, and no others.

    Args:
        root: the folder that the names start from.
        names: of the files, with ``/`` between folders.
        shape: C, H, W of every image; C is 1 where all are grey.
        side: bring every picture to a square of this side; None takes them as they are.
        workers: threads that read.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (6, 4), (7, 8, 9)).save(f"{folder}/red.png")
    ...     images = ImageFiles(Path(folder), ["red.png"], (3, 4, 6))
    ...     images.shape, images[:1].shape, images[0][:, 0, 0]
    (torch.Size([1, 3, 4, 6]), torch.Size([1, 3, 4, 6]), tensor([7, 8, 9], dtype=torch.uint8))
    """

    dtype = torch.uint8
    ndim = 4

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        shape: tuple[int, int, int],
        side: int | None = None,
        workers: int = 1,
    ) -> None:
        self.shape = torch.Size((len(names), *shape))
        self.workers = workers
        self._root = root
        self._names = names
        self._side = side

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"ImageFiles({str(self._root)!r}: {len(self)} files of {'×'.join(map(str, self.shape[1:]))})"

    @overload
    def __getitem__(self, rows: Rows) -> Tensor: ...

    @overload
    def __getitem__(self, rows: int) -> Tensor: ...

    def __getitem__(self, rows: Rows | int) -> Tensor:
        """Read some of the files: uint8 [n, C, H, W], or [C, H, W] for one whole number.

        Raises:
            BadInput: a file cannot be read or decoded, its size is not that of the others, or memory is too small.
            IndexError: there is no such row.
        """
        wanted = np.arange(len(self))[rows.cpu().numpy() if isinstance(rows, Tensor) else rows]
        if wanted.ndim == 0:
            return torch.from_numpy(self.read(int(wanted)).copy())
        if wanted.ndim != 1:
            raise IndexError(f"rows: got {wanted.ndim} dimensions; expected 1")
        require_memory(len(wanted) * self.shape[1:].numel(), "data.path", str(self._root))
        batch = torch.empty(len(wanted), *self.shape[1:], dtype=torch.uint8)
        share = partial(fill, batch.numpy(), self, wanted)
        for _ in in_order(share, spans(len(wanted), _JOB, self.workers), self.workers):
            pass
        return batch

    def read(self, row: int) -> npt.NDArray[np.uint8]:
        """One image, uint8 [C, H, W].

        Raises:
            BadInput: its file cannot be read or decoded, or its size or colours are not those of the others.
        """
        path = self._root / self._names[row]
        try:
            image = decode_photo(path.read_bytes(), self._side, FORMATS)
        except Exception as error:  # Pillow's decoders raise many kinds on damaged pictures
            raise undecodable(path, error) from None
        channels, height, width = self.shape[1:]
        if image.shape[1:] != (height, width) or image.shape[0] > channels:
            got, expected = ("×".join(map(str, shape)) for shape in (image.shape, self.shape[1:]))
            raise BadInput(
                "data.path",
                str(path),
                f"an image of {expected} (channels × height × width) as when the data were opened, but it is {got} now",
            )
        return image if image.shape[0] == channels else np.broadcast_to(image, (channels, height, width))

    def select(self, rows: npt.NDArray[np.int64]) -> Self:
        """The files of some rows; nothing is read."""
        names = [self._names[row] for row in rows]
        channels, height, width = self.shape[1:]
        return type(self)(self._root, names, (channels, height, width), self._side, self.workers)

    def content_hash(self) -> bytes:
        """SHA-256 of each file's name below the root, size and content, and of how they become images.

        It is the same wherever the folder lies, and another after one byte of one file has changed.

        Raises:
            BadInput: a file cannot be read.
        """
        pieces = in_order(self._hash_some, spans(len(self), _JOB, self.workers), self.workers)
        # Another Pillow may decode or resize to other pixels.
        how = f"{list(self.shape)} side {self._side} Pillow {PIL.__version__}".encode()
        return bytes.fromhex(digest(how, *(part for piece in pieces for part in piece)))

    def _hash_some(self, places: range) -> list[bytes]:
        parts = []
        for place in places:
            path = self._root / self._names[place]
            try:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").digest()
                    size = file.tell()
            except OSError as error:
                raise unreadable(path, error) from None
            parts += [os.fsencode(self._names[place]), size.to_bytes(8, "little"), content]
        return parts


def look(path: Path) -> tuple[bool, int, int]:
    """Whether an image file is grey, and its height and width when upright, from its header.

    Raises:
        BadInput: it cannot be read, or is no picture.
    """
    try:
        return header(path, FORMATS)
    except Exception as error:  # Pillow's decoders raise many kinds on damaged pictures
        raise undecodable(path, error) from None


def undecodable(path: Path, error: Exception) -> BadInput:
    """The error of an image file that cannot be read or decoded, with the reason."""
    return BadInput("data.path", str(path), f"a picture that can be decoded ({told(error)})")
