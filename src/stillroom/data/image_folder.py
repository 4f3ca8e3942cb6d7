"""Folders of image files, one folder for each class: the layout of torchvision's ImageFolder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from stillroom.data.folders import folder_name
from stillroom.data.image_files import ImageFiles, look
from stillroom.data.image_tree import STAND_INS, ImageTree, find_split, read_tree
from stillroom.data.images import ImageSet, balanced
from stillroom.data.stacking import require_memory
from stillroom.data.threads import cores, in_order, spans
from stillroom.errors import BadInput

_HELD_BY_ITSELF = 4 * 10**9  # bytes of pixels
_JOB = 64  # headers that a thread reads in one go


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
    """Read one split of ``ROOT/SPLIT/CLASS/…``: pictures in folders named by their classes, however deep below them.

    The classes are the folders' names, sorted as text; a class may be without pictures except in the split that is
    learned from. Names that begin with a dot are passed over, and so is what is no picture by its name.

    Where ``test`` is asked for and there is none, ``val``, ``valid`` or ``validation`` stands in for it if just one of
    them is there and none is learned from: many data sets publish no other labels. A ``test`` folder that is there is
    always taken as it is.

    Pictures are turned upright as their EXIF orientation says. They are grey where every picture of the two splits is,
    else RGB.

    Args:
        folder: where the splits lie.
        split: its name, such as ``train``.
        image_size: side of the square that each picture is brought to: shorter side resized, middle cut out; None takes
            them as they are, of one size.
        in_memory: whether to decode them now and hold them, or to read them when they are asked for; ``auto`` holds up
            to 4·10⁹ bytes.
        workers: threads that read; None is one for each core.
        limit: give only the images of ``ImageSet.subset(limit)``; no other picture is decoded.
        train_split: the split that is learned from.
        test_split: the split that is evaluated on.
        field: the field that names the split in an error.

    Raises:
        BadInput: the split is missing, a class of the training split is without pictures, a file is damaged, sizes
            differ and no ``image_size`` is given, or memory is too small for what shall be held.
    """
    stand_in = train_split not in STAND_INS
    threads = workers or cores()
    tree = read_tree(find_split(folder, split, field, stand_in=stand_in), each_class=split == train_split)
    count = len(tree.names)
    wanted = np.arange(count) if limit is None or limit >= count else balanced(tree.labels, limit)
    names = [tree.names[row] for row in wanted]
    all_grey, size = _look_at(tree.root, names, image_size, threads)
    if all_grey:
        others = [tree.root / name for name in tree.names] if len(names) < count else []
        for other in {train_split, test_split} - {split}:
            others += _files_of(folder, other, stand_in)
        all_grey = _grey(others, threads)
    files = ImageFiles(tree.root, names, (1 if all_grey else 3, *size), image_size, threads)
    return _labelled(files, tree, wanted, in_memory, folder_name(folder))


def _labelled(
    files: ImageFiles,
    tree: ImageTree,
    wanted: npt.NDArray[np.int64],
    in_memory: Literal["auto", True, False],
    name: str,
) -> ImageSet:
    """The set, decoded where it is to be held."""
    labels = torch.from_numpy(tree.labels[wanted])
    needed = files.shape.numel()
    if in_memory is False or (in_memory == "auto" and needed > _HELD_BY_ITSELF):
        return ImageSet(files, labels, tree.classes, name)
    require_memory(needed, "data.in_memory", in_memory)
    return ImageSet(files[:], labels, tree.classes, name)


def _look_at(root: Path, names: list[str], image_size: int | None, workers: int) -> tuple[bool, tuple[int, int]]:
    """Whether all files are grey, and the height and width that their images will have."""
    all_grey = True
    first: tuple[int, int] | None = None

    def look_at(places: range) -> list[tuple[bool, int, int]]:
        return [look(root / names[place]) for place in places]

    row = 0
    for piece in in_order(look_at, spans(len(names), _JOB, workers), workers):
        for grey, *size in piece:
            all_grey = all_grey and grey
            first = first or (size[0], size[1])
            if image_size is None and (size[0], size[1]) != first:
                raise BadInput(
                    "data.path",
                    str(root),
                    "images of one size (height × width), but "
                    f"{names[0]} is {first[0]}×{first[1]} and {names[row]} is {size[0]}×{size[1]}; "
                    "set data.image_size to bring all to one",
                )
            row += 1
    assert first is not None  # a tree without files is refused
    return all_grey, (image_size, image_size) if image_size is not None else first


def _files_of(folder: Path, split: str, stand_in: bool) -> list[Path]:
    """The files of another split; none where it cannot be read, which is told when it is asked for."""
    try:
        tree = read_tree(find_split(folder, split, "split", stand_in=stand_in), each_class=False)
    except BadInput:
        return []
    return [tree.root / name for name in tree.names]


def _grey(paths: Iterable[Path], workers: int) -> bool:
    """Whether no file is coloured; a file that cannot be read does not count, and none is looked at after a first."""

    def all_grey(path: Path) -> bool:
        try:
            return look(path)[0]
        except BadInput:
            return True

    return all(in_order(all_grey, paths, workers))
