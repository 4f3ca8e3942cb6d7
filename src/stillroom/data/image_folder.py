"""Folders of image files, SPLIT/CLASS/…/picture.png: the layout of torchvision's ImageFolder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import PIL
import torch
from torch import Tensor

from stillroom.data.decoding import decode_error, decode_photo, header
from stillroom.data.images import ImageSet, LazyImages, Rows, balanced_rows
from stillroom.data.reading import (
    data_name,
    list_folder,
    map_in_order,
    num_cores,
    path_error,
    read_error,
    require_memory,
    split_error,
    split_range,
)
from stillroom.errors import BadInput
from stillroom.files import digest

# What a file may be called, and what it may be: some formats that Pillow knows start other programs.
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Taken for `test` where that is missing; and the names by which a folder of splits is detected.
TEST_ALTERNATIVES = ("val", "valid", "validation")
USUAL_SPLITS = ("train", "test", *TEST_ALTERNATIVES)
_AUTO_IN_MEMORY = 4 * 10**9  # bytes of pixels
_JOB = 64  # files that a thread reads in one go


class ImageFiles(LazyImages):
    """Image files in place of a uint8 tensor [N, C, H, W]: a slice or an index reads those files alone.

    Args:
        shape: C, H, W of every image; C is 1 where all are grey.
        side: bring every picture to a square of this side; None takes them as they are.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (6, 4), (7, 8, 9)).save(f"{folder}/red.png")
    ...     images = ImageFiles(Path(folder), ["red.png"], (3, 4, 6))
    ...     images.shape, images[:1].shape, images[0][:, 0, 0]
    (torch.Size([1, 3, 4, 6]), torch.Size([1, 3, 4, 6]), tensor([7, 8, 9], dtype=torch.uint8))
    """

    def __init__(
        self, root: Path, names: Sequence[str], shape: tuple[int, int, int], side: int | None = None, workers: int = 1
    ) -> None:
        self.shape = torch.Size((len(names), *shape))
        self.workers = workers
        self._root = root
        self._names = names
        self._side = side

    def __repr__(self) -> str:
        return f"ImageFiles({str(self._root)!r}: {len(self)} files of {'×'.join(map(str, self.shape[1:]))})"

    def __getitem__(self, rows: Rows | int) -> Tensor:
        wanted = np.arange(len(self))[rows.cpu().numpy() if isinstance(rows, Tensor) else rows]
        if wanted.ndim == 0:
            return torch.from_numpy(self.read(int(wanted)).copy())
        if wanted.ndim != 1:
            raise IndexError(f"rows: got {wanted.ndim} dimensions; expected 1")
        require_memory(len(wanted) * self.shape[1:].numel(), "data.path", str(self._root))
        batch = torch.empty(len(wanted), *self.shape[1:], dtype=torch.uint8)
        job = partial(self.fill, batch.numpy(), wanted)
        for _ in map_in_order(job, split_range(len(wanted), _JOB, self.workers), self.workers):
            pass
        return batch

    def read(self, row: int) -> npt.NDArray[np.uint8]:
        path = self._root / self._names[row]
        try:
            image = decode_photo(path.read_bytes(), self._side, FORMATS)
        except Exception as error:  # Pillow's decoders raise many kinds on damaged pictures
            raise decode_error(path, "a picture", error) from None
        channels, height, width = self.shape[1:]
        if image.shape[1:] != (height, width) or image.shape[0] > channels:
            got, expected = ("×".join(map(str, shape)) for shape in (image.shape, self.shape[1:]))
            raise path_error(
                path,
                f"an image of {expected} (channels × height × width) as when the data were opened, but it is {got} now",
            )
        return image if image.shape[0] == channels else np.broadcast_to(image, (channels, height, width))

    def select(self, rows: npt.NDArray[np.int64]) -> Self:
        names = [self._names[row] for row in rows]
        channels, height, width = self.shape[1:]
        return type(self)(self._root, names, (channels, height, width), self._side, self.workers)

    def content_hash(self) -> bytes:
        """SHA-256 of each file's name below the root, size and content, and of how they become images.

        It is the same wherever the folder lies, and another after one byte of one file has changed.
        """
        pieces = map_in_order(self._hash_some, split_range(len(self), _JOB, self.workers), self.workers)
        # Another Pillow may decode or resize to other pixels.
        how = f"{list(self.shape)} side {self._side} Pillow {PIL.__version__}".encode()
        return bytes.fromhex(digest(how, *(part for piece in pieces for part in piece)))

    def hashes(self) -> npt.NDArray[np.uint8]:
        pieces = map_in_order(self._hash_some, split_range(len(self), _JOB, self.workers), self.workers)
        content = b"".join(part for piece in pieces for part in piece[2::3])
        return np.frombuffer(content, np.uint8).reshape(len(self), -1)

    def _hash_some(self, places: range) -> list[bytes]:
        parts = []
        for place in places:
            path = self._root / self._names[place]
            try:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").digest()
                    size = file.tell()
            except OSError as error:
                raise read_error(path, error) from None
            parts += [os.fsencode(self._names[place]), size.to_bytes(8, "little"), content]
        return parts


def read_header(path: Path) -> tuple[bool, int, int]:
    """Whether an image file is grey, and its upright height and width; BadInput where it is no picture."""
    try:
        return header(path, FORMATS)
    except Exception as error:  # Pillow's decoders raise many kinds on damaged pictures
        raise decode_error(path, "a picture", error) from None


@dataclass(frozen=True)
class ImageTree:
    """The image files of one split.

    Attributes:
        names: of the files below the root, with ``/`` between folders; by class, then sorted.
        labels: each file's class number, int64 [N].
    """

    root: Path
    classes: tuple[str, ...]
    names: list[str]
    labels: npt.NDArray[np.int64]


def image_splits(folder: Path, splits: Iterable[str] | None = None) -> list[str]:
    """The folders in ``folder`` (``splits``: those alone) with class folders that hold an image file, sorted."""
    names = sorted(path.name for path in _folders(folder)) if splits is None else sorted(set(splits))
    return [name for name in names if (folder / name).is_dir() and _has_classes(folder / name)]


def find_split(folder: Path, split: str, field: str, *, test_alternatives: bool) -> Path:
    """The folder of a split; of ``test``, where it is missing and they are allowed, its only alternative there is."""
    names = [path.name for path in _folders(folder)]
    if split in names:
        return folder / split
    if split == "test" and test_alternatives:
        others = image_splits(folder, set(TEST_ALTERNATIVES) & set(names))
        if len(others) == 1:
            return folder / others[0]
    raise split_error(field, split, image_splits(folder))


def read_tree(root: Path, *, each_class: bool) -> ImageTree:
    """List the image files of one split."""
    classes = tuple(sorted(path.name for path in _folders(root)))
    if len(classes) < 2:
        found = ", ".join(path.name for path in list_folder(root)[:5]) or "nothing"
        raise path_error(root, f"at least 2 class folders, each with its image files; it holds {found}")
    names: list[str] = []
    counts = []
    for name in classes:
        files = sorted(_files(root, name, ()))
        if each_class and not files:
            raise _no_files(root / name)
        names += files
        counts.append(len(files))
    if not names:
        raise _no_files(root)
    return ImageTree(root, classes, names, np.repeat(np.arange(len(classes), dtype=np.int64), counts))


def _no_files(folder: Path) -> BadInput:
    return path_error(folder, f"at least 1 image file ({', '.join(SUFFIXES)}), but there is none")


def _folders(folder: Path) -> list[Path]:
    return [path for path in list_folder(folder) if not path.name.startswith(".") and path.is_dir()]


def _has_classes(split: Path) -> bool:
    return any(next(_files(split, path.name, ()), None) is not None for path in _folders(split))


def _files(root: Path, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """The image files in a folder and the folders in it, as names below the root.

    Links are followed, as subsets of large data are often made of them, except one to a folder above itself.
    """
    folder = root / below
    try:
        status = folder.stat()
        with os.scandir(folder) as scan:
            there = sorted(scan, key=lambda entry: entry.name)
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        for entry in there:
            if entry.name.startswith("."):
                continue
            name = f"{below}/{entry.name}"
            if entry.is_dir():
                yield from _files(root, name, (*above, here))
            # A link to nothing is listed, so that reading it tells that it is broken; a pipe would be waited for.
            elif entry.name.lower().endswith(SUFFIXES) and (entry.is_file() or entry.is_symlink()):
                yield name
    except OSError as error:
        raise read_error(folder, error) from None


def read_image_folder(
    folder: Path,
    split: str,
    *,
    image_size: int | None = None,
    in_memory: Literal["auto", True, False] = "auto",
    workers: int | None = None,
    limit: int | None = None,
    train_split: str = "train",
    test_split: str = "test",
    field: str = "split",
) -> ImageSet:
    """Read one split of ``ROOT/SPLIT/CLASS/…``: pictures in folders named by their classes, at any depth below them.

    The classes are the folders' names, sorted as text; only in the training split must each have pictures. Names that
    begin with a dot, and those without the suffix of a picture, are ignored.

    Where ``test`` is missing, ``val``, ``valid`` or ``validation`` takes its place if exactly one of them is there and
    none is the training split: many data sets publish no other labels.

    Pictures are turned upright as their EXIF orientation says. They are grey where every picture of the two splits is,
    else RGB.

    Args:
        image_size: side of the square that each picture is brought to: shorter side resized, middle cut out; None: as
            they are, all of one size.
        in_memory: decode them now and keep them, or read them on demand; ``auto`` keeps up to 4·10⁹ bytes.
        workers: threads that read; None is one for each core.
        limit: only the images of ``ImageSet.balanced_subset(limit)``; no other is decoded.
    """
    alternatives = train_split not in TEST_ALTERNATIVES
    threads = workers or num_cores()
    tree = read_tree(find_split(folder, split, field, test_alternatives=alternatives), each_class=split == train_split)
    count = len(tree.names)
    rows = balanced_rows(tree.labels, limit)
    names = [tree.names[row] for row in rows]
    grey, size = _read_headers(tree.root, names, image_size, threads)
    if grey:
        others = [tree.root / name for name in tree.names] if len(names) < count else []
        for other in {train_split, test_split} - {split}:
            others += _files_of_split(folder, other, alternatives)
        grey = _all_grey(others, threads)
    files = ImageFiles(tree.root, names, (1 if grey else 3, *size), image_size, threads)
    labels, needed = torch.from_numpy(tree.labels[rows]), files.shape.numel()
    if in_memory is False or (in_memory == "auto" and needed > _AUTO_IN_MEMORY):
        return ImageSet(files, labels, tree.classes, data_name(folder))
    require_memory(needed, "data.in_memory", in_memory)
    return ImageSet(files[:], labels, tree.classes, data_name(folder), files=files)


def _read_headers(root: Path, names: list[str], image_size: int | None, workers: int) -> tuple[bool, tuple[int, int]]:
    """Whether all files are grey, and the height and width that their images will have."""

    def read_some(positions: range) -> list[tuple[bool, int, int]]:
        return [read_header(root / names[position]) for position in positions]

    all_grey, first, row = True, None, 0
    for piece in map_in_order(read_some, split_range(len(names), _JOB, workers), workers):
        for grey, height, width in piece:
            all_grey = all_grey and grey
            first = first or (height, width)
            if image_size is None and (height, width) != first:
                raise path_error(
                    root,
                    "images of one size (height × width), but "
                    f"{names[0]} is {first[0]}×{first[1]} and {names[row]} is {height}×{width}; "
                    "set data.image_size (`--image-size`) to bring all to one",
                )
            row += 1
    assert first is not None  # a tree without files is refused
    return all_grey, (image_size, image_size) if image_size is not None else first


def _files_of_split(folder: Path, split: str, alternatives: bool) -> list[Path]:
    """The files of another split; none where it cannot be read, which raises when it is loaded itself."""
    try:
        tree = read_tree(find_split(folder, split, "split", test_alternatives=alternatives), each_class=False)
    except BadInput:
        return []
    return [tree.root / name for name in tree.names]


def _all_grey(paths: Iterable[Path], workers: int) -> bool:
    """Whether no file is coloured, up to the first that is; a file that cannot be read does not count."""

    def is_grey(path: Path) -> bool:
        try:
            return read_header(path)[0]
        except BadInput:
            return True

    return all(map_in_order(is_grey, paths, workers))
