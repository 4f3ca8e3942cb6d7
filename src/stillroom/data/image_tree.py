"""Which image files lie where, in folders of splits of classes: ``ROOT/SPLIT/CLASS/…/picture.png``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stillroom.data.folders import entries, missing_split, unreadable
from stillroom.data.image_files import SUFFIXES
from stillroom.errors import BadInput

# What stands in for `test` where there is none; and by what a folder of splits is recognised.
STAND_INS = ("val", "valid", "validation")
USUAL_SPLITS = ("train", "test", *STAND_INS)


@dataclass(frozen=True)
class ImageTree:
    """The image files of one split.

    Attributes:
        root: the split's folder.
        classes: its class folders, sorted.
        names: of the files below the root, with ``/`` between folders; by class, then sorted.
        labels: each file's class number, int64 [N].
    """

    root: Path
    classes: tuple[str, ...]
    names: list[str]
    labels: npt.NDArray[np.int64]


def image_splits(folder: Path, splits: Iterable[str] | None = None) -> list[str]:
    """The folders below ``folder`` that hold class folders with an image file in them, sorted.

    Args:
        folder: where the splits lie.
        splits: look at these alone.

    Raises:
        BadInput: a folder cannot be read.
    """
    names = sorted(path.name for path in _folders(folder)) if splits is None else sorted(set(splits))
    return [name for name in names if (folder / name).is_dir() and _holds_classes(folder / name)]


def find_split(folder: Path, split: str, field: str, *, stand_in: bool) -> Path:
    """The folder of a split.

    Args:
        folder: where the splits lie.
        split: its name.
        field: the field that names the split in an error.
        stand_in: whether ``val``, ``valid`` or ``validation``, where just one of them is there, may stand in for a
            ``test`` that is not.

    Raises:
        BadInput: there is no such split.
    """
    names = [path.name for path in _folders(folder)]
    if split in names:
        return folder / split
    others = image_splits(folder, set(STAND_INS) & set(names)) if split == "test" and stand_in else []
    if len(others) == 1:
        return folder / others[0]
    raise missing_split(field, split, image_splits(folder))


def read_tree(root: Path, *, each_class: bool) -> ImageTree:
    """List the image files of one split.

    Args:
        root: the split's folder.
        each_class: refuse a class without a file.

    Raises:
        BadInput: there are fewer than two class folders, no image file, or a folder cannot be read.
    """
    classes = tuple(sorted(path.name for path in _folders(root)))
    if len(classes) < 2:
        found = ", ".join(path.name for path in entries(root)[:5]) or "nothing"
        raise BadInput("data.path", str(root), f"at least 2 class folders, each with its image files; it holds {found}")
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
    return BadInput("data.path", str(folder), f"at least 1 image file ({', '.join(SUFFIXES)}), but there is none")


def _folders(folder: Path) -> list[Path]:
    return [path for path in entries(folder) if not path.name.startswith(".") and path.is_dir()]


def _holds_classes(split: Path) -> bool:
    return any(next(_files(split, path.name, ()), None) is not None for path in _folders(split))


def _files(root: Path, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """The image files in a folder and the folders in it, as names below the root.

    Links are followed, as subsets of large data are often made of them; one that leads back above itself is not.
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
        raise unreadable(folder, error) from None
