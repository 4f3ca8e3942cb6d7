"""Folders of image files, SPLIT/CLASS/…/picture.png: the layout of torchvision's ImageFolder."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import PIL
import torch
from PIL import features
from torch import Tensor

from stillroom.data.config import DataConfig
from stillroom.data.decoded import stored_images
from stillroom.data.decoding import FileFacts, check_photo, decode_error, decode_photo, header, without_metadata
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
from stillroom.errors import BadInput, shorten
from stillroom.files import digest
from stillroom.wording import counted

# What a file may be called, and what it may be: some formats that Pillow knows start other programs.
SUFFIXES: tuple[str, ...] = (
    *(".apng", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
FORMATS: tuple[str, ...] = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
if features.check("avif"):  # of Pillow's wheels from 11.3 on
    SUFFIXES, FORMATS = (".avif", *SUFFIXES), ("AVIF", *FORMATS)
if find_spec("pillow_heif") is not None:
    pillow_heif: Any = importlib.import_module("pillow_heif")
    pillow_heif.register_heif_opener()
    SUFFIXES, FORMATS = (*SUFFIXES, ".heic", ".heif"), (*FORMATS, "HEIF")
# Taken for `test` where that is missing; and the names by which a folder of splits is detected.
TEST_ALTERNATIVES = ("val", "valid", "validation")
USUAL_SPLITS = ("train", "test", *TEST_ALTERNATIVES)
_AUTO_IN_MEMORY = 4 * 10**9  # bytes of pixels
_JOB = 64  # files that a thread reads in one go
_SKIP = "; data.bad_files=skip leaves such files out"
_SHOWN = 5  # files that cannot be decoded, in a note
_DEFAULTS = DataConfig()


@dataclass(frozen=True, eq=False)
class Contents:
    """The bytes of image files when they were checked."""

    hashes: npt.NDArray[np.uint8]  # SHA-256 of each, uint8 [N, 32]
    coded: npt.NDArray[np.uint8]  # BLAKE2 of each without metadata, uint8 [N, 16]
    sizes: npt.NDArray[np.int64]  # their number, int64 [N]
    drafted: npt.NDArray[np.bool_]  # whether it is decoded at a fraction of its size, bool [N]

    def select(self, rows: npt.NDArray[np.int64]) -> Contents:
        """Those of some files."""
        return Contents(self.hashes[rows], self.coded[rows], self.sizes[rows], self.drafted[rows])


def check_files(
    root: Path, names: Sequence[str], side: int | None, workers: int
) -> tuple[Contents, list[FileFacts | BadInput]]:
    """Read every file once: its hash, its header, and whether it can be decoded.

    Returns:
        The hashes, and of each file its header, or why it cannot be decoded.
    """
    count = len(names)
    hashes, coded = np.zeros((count, 32), np.uint8), np.zeros((count, 16), np.uint8)
    contents = Contents(hashes, coded, np.zeros(count, np.int64), np.zeros(count, np.bool_))

    def check_some(places: range) -> list[FileFacts | BadInput]:
        found: list[FileFacts | BadInput] = []
        for place in places:
            path = root / names[place]
            try:
                content = path.read_bytes()
                contents.sizes[place] = len(content)
                contents.hashes[place] = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
                pixels = hashlib.blake2b(b"".join(without_metadata(content)), digest_size=16)
                contents.coded[place] = np.frombuffer(pixels.digest(), np.uint8)
                facts = check_photo(content, side, FORMATS)
                contents.drafted[place] = facts.drafted
                found.append(facts)
            except Exception as error:  # Pillow's decoders raise many kinds on damaged pictures
                found.append(decode_error(path, "a picture", error, _SKIP))
        return found

    pieces = map_in_order(check_some, split_range(len(names), _JOB, workers), workers)
    return contents, [each for piece in pieces for each in piece]


class ImageFiles(LazyImages):
    """Image files in place of a uint8 tensor [N, C, H, W]: a slice or an index reads those files alone.

    Args:
        shape: C, H, W of every image; C is 1 where all are grey.
        side: bring every picture to a square of this side; None takes them as they are.
        contents: what their bytes were when they were checked; left out, each is read for :meth:`content_hash`.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (6, 4), (7, 8, 9)).save(f"{folder}/red.png")
    ...     images = ImageFiles(Path(folder), ["red.png"], (3, 4, 6))
    ...     images.shape, images[:1].shape, images[0][:, 0, 0]
    (torch.Size([1, 3, 4, 6]), torch.Size([1, 3, 4, 6]), tensor([7, 8, 9], dtype=torch.uint8))
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        shape: tuple[int, int, int],
        side: int | None = None,
        workers: int = 1,
        contents: Contents | None = None,
    ) -> None:
        self.shape = torch.Size((len(names), *shape))
        self.workers = workers
        self._root = root
        self._names = names
        self._side = side
        self._contents = contents

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
            raise decode_error(path, "a picture", error, _SKIP) from None
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
        contents = self._contents.select(rows) if self._contents is not None else None
        return type(self)(self._root, names, (channels, height, width), self._side, self.workers, contents)

    def check(self) -> Contents:
        """Read every file once, so that one that cannot be decoded is found before the first step.

        Raises:
            BadInput: naming the first of them.
        """
        if self._contents is None:
            self._contents, found = check_files(self._root, self._names, self._side, self.workers)
            if (error := next((facts for facts in found if isinstance(facts, BadInput)), None)) is not None:
                raise error
        return self._contents

    def content_hash(self) -> bytes:
        """SHA-256 of each file's name below the root, size and content, and of how they become images.

        It is the same wherever the folder lies, and another after one byte of one file has changed.
        """
        contents = self.check()
        # Another Pillow may decode or resize to other pixels, and so does decoding at a fraction of the size.
        how = f"{list(self.shape)} side {self._side} Pillow {PIL.__version__}"
        how += " draft" if contents.drafted.any() else ""
        parts = (
            (os.fsencode(name), int(size).to_bytes(8, "little"), content.tobytes())
            for name, size, content in zip(self._names, contents.sizes, contents.hashes, strict=True)
        )
        return bytes.fromhex(digest(how.encode(), *(part for three in parts for part in three)))

    def coded_hashes(self) -> npt.NDArray[np.uint8]:
        return self.check().coded

    def pixel_hashes(self) -> npt.NDArray[np.uint8]:
        hashes = np.zeros((len(self), 16), np.uint8)

        def hash_some(rows: range) -> None:
            for row in rows:
                content = np.ascontiguousarray(self.read(row))
                hashes[row] = np.frombuffer(hashlib.blake2b(content.data, digest_size=16).digest(), np.uint8)

        for _ in map_in_order(hash_some, split_range(len(self), _JOB, self.workers), self.workers):
            pass
        return hashes

    @property
    def encoded_bytes(self) -> int:
        return int(self.check().sizes.sum())


@dataclass(frozen=True)
class ImageTree:
    """The image files of one split."""

    root: Path
    classes: tuple[str, ...]
    names: list[str]  # of the files below the root, with ``/`` between folders; by class, then sorted
    labels: npt.NDArray[Any]  # each file's class number, int64 [N], or vector, float32 [N, K]
    notes: tuple[str, ...] = ()  # what is left out, and which links lead to other splits, a line each


class _Watch:
    """Notes what lies in a split next to its images: files of other suffixes, links to other splits.

    Args:
        root: the split's folder.
        others: those of the other splits.
    """

    def __init__(self, root: Path, others: Iterable[Path]) -> None:
        self._root = root
        self._others = {os.path.realpath(other) + os.sep: other.name for other in others}
        self._suffixes: Counter[str] = Counter()
        self._links: dict[str, list[str]] = {}

    def left_out(self, name: str) -> None:
        self._suffixes[os.path.splitext(name)[1].lower() or "no suffix"] += 1

    def suffixes(self) -> str:
        """The suffixes of files that are left out, the most frequent first."""
        shown = [f"{suffix} ({count:,})" for suffix, count in self._suffixes.most_common(_SHOWN)]
        return ", ".join(shown) + (", …" if len(self._suffixes) > _SHOWN else "")

    def link(self, name: str) -> None:
        target = os.path.realpath(self._root / name) + os.sep
        for place, other in self._others.items():
            if target.startswith(place):
                self._links.setdefault(other, []).append(name)

    def notes(self) -> Iterator[str]:
        loose = sum(path.name.lower().endswith(SUFFIXES) and path.is_file() for path in list_folder(self._root))
        if loose:
            yield f"left out {counted(loose, 'image')} next to the class folders of {self._root.name}"
        if self._suffixes:
            files = f"{counted(self._suffixes.total(), 'file')} of {self._root.name}"
            yield f"left out {files}, whose suffix is not an image's: {self.suffixes()}"
        for other, names in self._links.items():
            links = f"{counted(len(names), 'link')} of {self._root.name}"
            yield f"{links} {'leads' if len(names) == 1 else 'lead'} to {other}, such as {shorten(names[0], 80)}"


def image_splits(folder: Path, splits: Iterable[str] | None = None) -> list[str]:
    """The folders in ``folder`` with class folders that hold an image file, sorted.

    Args:
        splits: those of these names alone, in whatever case; ``.`` is the folder itself.
    """
    names = sorted(path.name for path in _folders(folder))
    if splits is not None:
        wanted = {split.lower() for split in splits}
        names = [name for name in [*names, "."] if name.lower() in wanted]
    return [name for name in names if class_folders(folder / name)]


def left_out_of_splits(folder: Path, splits: Iterable[str]) -> str:
    """The suffixes of files in folders of classes that are no images by their names, as ``.heic (4)``; none: empty."""
    watch = _Watch(folder, ())
    wanted = {split.lower() for split in splits}
    for split in _folders(folder):
        if split.name.lower() in wanted:
            for path in _folders(split):
                list(_files(split, path.name, (), watch))
    return watch.suffixes()


def describe_loose_images(folder: Path) -> str:
    """How to say the classes of image files that lie in no folder of their class; empty where there are none.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat.1.jpg", "cat.2.jpg", "dog.1.jpg"): Path(folder, name).touch()
    ...     print(describe_loose_images(Path(folder)))
    class folders (cat/1.jpg), or a CSV file in it with the columns path and label, for its 3 images: a line such as
    cat.1.jpg,cat, or data.class_from=file_name, which takes the words (their names begin with cat (2), dog (1))
    """
    names = [path.name for path in list_folder(folder) if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not names:
        return ""
    first = Counter(class_of_name(name) or "a digit" for name in names)
    shown = ", ".join(f"{start} ({count})" for start, count in first.most_common(_SHOWN))
    label = next(iter(first)) if len(first) < len(names) else "cat"
    by_name = ", or data.class_from=file_name, which takes the words" if 1 < len(first) < len(names) else ""
    return (
        f"class folders (cat/1.jpg), or a CSV file in it with the columns path and label, for its "
        f"{counted(len(names), 'image')}: a line such as {names[0]},{label}{by_name} (their names begin with {shown})"
    )


def class_of_name(name: str) -> str:
    """The class that a file's name begins with: all up to its first number, or to its suffix.

    >>> [class_of_name(name) for name in ("cat_001.jpg", "great dane-2.png", "owl.jpg", "0012.jpg")]
    ['cat', 'great dane', 'owl', '']
    """
    return re.split(r"[\W_]*\d", os.path.splitext(name)[0], maxsplit=1)[0]


def find_split(folder: Path, split: str, field: str, *, test_alternatives: bool, by_name: bool = False) -> Path:
    """The folder of a split; of ``test``, where it is missing and they are allowed, its only alternative there is.

    Its name may be written in another case, where only one folder is called so. The split ``.`` is the folder itself:
    its class folders lie right below, or, ``by_name``, its images in it.
    """
    names = [path.name for path in _folders(folder)]
    if split in names or (split == "." and (by_name or class_folders(folder))):
        return folder / split
    same = [name for name in names if name.lower() == split.lower()]
    if len(same) == 1:
        return folder / same[0]
    if split == "test" and test_alternatives:
        others = image_splits(folder, TEST_ALTERNATIVES)
        if len(others) == 1:
            return folder / others[0]
    raise split_error(field, split, image_splits(folder))


def read_tree(root: Path, *, each_class: bool, others: Iterable[Path] = ()) -> ImageTree:
    """List the image files of one split.

    Args:
        root: its folder.
        each_class: whether each class must have one.
        others: the folders of other splits, which no link should lead to.
    """
    classes = tuple(sorted(path.name for path in _folders(root)))
    if len(classes) < 2:
        found = ", ".join(path.name for path in list_folder(root)[:5]) or "nothing"
        raise path_error(root, f"at least 2 class folders, each with its image files; it holds {found}")
    names: list[str] = []
    counts = []
    watch = _Watch(root, others)
    for name in classes:
        files = sorted(_files(root, name, (), watch))
        if each_class and not files:
            mine = _Watch(root, ())
            list(_files(root, name, (), mine))
            raise _no_files(root / name, mine)
        names += files
        counts.append(len(files))
    if not names:
        raise _no_files(root, watch)
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), counts)
    return ImageTree(root, classes, names, labels, tuple(watch.notes()))


def read_names(root: Path, others: Iterable[Path] = ()) -> ImageTree:
    """List the image files right in the folder of a split, whose classes are what their names begin with.

    Args:
        root: its folder.
        others: the folders of other splits, whose classes count, too.
    """
    names = _loose(root)
    if not names:
        raise _no_files(root, _Watch(root, ()))
    unnamed = next((name for name in names if not class_of_name(name)), None)
    if unnamed is not None:
        raise path_error(root / unnamed, "a name that begins with its class, as in cat_001.jpg (data.class_from)")
    classes = tuple(sorted({class_of_name(name) for each in (root, *others) for name in _loose(each)} - {""}))
    if len(classes) < 2:
        raise path_error(root, f"file names of at least 2 classes; all begin with {classes[0]!r} (data.class_from)")
    names.sort(key=lambda name: (class_of_name(name), name))
    labels = np.array([classes.index(class_of_name(name)) for name in names], np.int64)
    return ImageTree(root, classes, names, labels, (f"classes from the names of files: {', '.join(classes[:8])}",))


def _loose(folder: Path) -> list[str]:
    """The image files right in a folder, sorted."""
    return [path.name for path in list_folder(folder) if path.name.lower().endswith(SUFFIXES) and path.is_file()]


def _no_files(folder: Path, watch: _Watch) -> BadInput:
    others = f"; its files are {suffixes}" if (suffixes := watch.suffixes()) else ""
    expected = f"at least 1 image file ({', '.join(SUFFIXES)}), but there is none{others}"
    return path_error(folder, f"{expected}; remove the folder if it is no class")


def _folders(folder: Path) -> list[Path]:
    return [path for path in list_folder(folder) if not path.name.startswith(".") and path.is_dir()]


def class_folders(split: Path) -> list[str]:
    """The folders in a folder that hold an image file, at any depth."""
    return [path.name for path in _folders(split) if next(_files(split, path.name, ()), None) is not None]


def _files(root: Path, below: str, above: tuple[tuple[int, int], ...], watch: _Watch | None = None) -> Iterator[str]:
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
            if watch is not None and entry.is_symlink():
                watch.link(name)
            if entry.is_dir():
                yield from _files(root, name, (*above, here), watch)
            # A link to nothing is listed, so that reading it tells that it is broken; a pipe would be waited for.
            elif entry.name.lower().endswith(SUFFIXES) and (entry.is_file() or entry.is_symlink()):
                yield name
            elif watch is not None and entry.is_file():
                watch.left_out(entry.name)
    except OSError as error:
        raise read_error(folder, error) from None


def read_image_folder(
    folder: Path, split: str, config: DataConfig = _DEFAULTS, *, limit: int | None = None, field: str = "split"
) -> ImageSet:
    """Read one split of ``ROOT/SPLIT/CLASS/…``: pictures in folders named by their classes, at any depth below them.

    The classes are the folders' names, sorted as text; only in the training split must each have pictures. Names that
    begin with a dot are ignored; files without the suffix of a picture are left out, and counted in the notes.

    Where ``test`` is missing, ``val``, ``valid`` or ``validation`` takes its place if exactly one of them is there and
    none is the training split: many data sets publish no other labels.

    Pictures are turned upright as their EXIF orientation says. They are grey where every picture of the two splits is,
    else RGB.

    Args:
        config: of it the options of image files; ``image_size`` resizes the shorter side and cuts the middle out,
            ``in_memory: auto`` keeps up to 4·10⁹ bytes of pixels, and for ``bad_files`` see :attr:`ImageSet.skipped`.
        limit: only the images of ``ImageSet.balanced_subset(limit)``; no other is decoded.
    """
    by_name, named = config.class_from == "file_name", (config.train_split, config.test_split)
    alternatives = config.train_split not in TEST_ALTERNATIVES
    root = find_split(folder, split, field, test_alternatives=alternatives, by_name=by_name)
    wanted = {name.lower() for name in (*named, *USUAL_SPLITS)}
    others = [path for path in _folders(folder) if path.name.lower() in wanted and path != root]
    each_class = split == config.train_split
    tree = read_names(root, others) if by_name else read_tree(root, each_class=each_class, others=others)

    def other_files() -> list[Path]:
        rest = {*named} - {split}
        return [each for other in rest for each in _files_of_split(folder, other, alternatives, by_name)]

    return set_of_files(folder, tree, config, limit=limit, other_files=other_files)


def set_of_files(
    folder: Path, tree: ImageTree, config: DataConfig, *, limit: int | None, other_files: Callable[[], list[Path]]
) -> ImageSet:
    """The set of some image files; for the other arguments see :func:`read_image_folder`.

    Args:
        folder: whose name the data have.
        other_files: gives those of the other splits, which must be grey, too, where these are.
    """
    threads, in_memory, image_size = config.workers or num_cores(), config.in_memory, config.image_size
    count = len(tree.names)
    rows = balanced_rows(tree.labels if tree.labels.ndim == 1 else np.zeros(count, np.int64), limit)
    names = [tree.names[row] for row in rows]
    contents = None
    if in_memory is False or config.bad_files == "skip":
        contents, found = check_files(tree.root, names, image_size, threads)
    else:
        found = _read_headers(tree.root, names, threads)
    skipped = tuple(name for name, facts in zip(names, found, strict=True) if isinstance(facts, BadInput))
    if skipped:
        error = next(facts for facts in found if isinstance(facts, BadInput))
        if config.bad_files == "error" or len(skipped) == len(names):
            raise error
        kept = np.array([not isinstance(facts, BadInput) for facts in found])
        rows, names = rows[kept], [name for name, keep in zip(names, kept, strict=True) if keep]
        contents = contents.select(np.flatnonzero(kept)) if contents is not None else None
    grey, size = _common_form(tree.root, names, [facts for facts in found if isinstance(facts, FileFacts)], image_size)
    if grey:
        coloured = [tree.root / name for name in tree.names] if len(names) + len(skipped) < count else []
        coloured += other_files()
        grey = _all_grey(coloured, threads)
    files = ImageFiles(tree.root, names, (1 if grey else 3, *size), image_size, threads, contents)
    labels, needed = torch.from_numpy(tree.labels[rows]), files.shape.numel()
    facts: dict[str, Any] = {
        "notes": (*tree.notes, *_skipped_note(skipped)),
        "skipped": skipped,
        "task": config.task or "single_label",
    }
    name = data_name(folder)
    if in_memory is False or (in_memory == "auto" and needed > _AUTO_IN_MEMORY):
        files.check()
        return ImageSet(files, labels, tree.classes, name, **facts)
    require_memory(needed, "data.in_memory", in_memory)
    images = stored_images(name, len(files), lambda: {"files": files.content_hash().hex()}, lambda: files[:].numpy())
    return ImageSet(torch.from_numpy(images), labels, tree.classes, name, files=files, **facts)


def read_images(folder: Path, shape: Sequence[int], workers: int | None, field: str) -> Tensor:
    """The pictures of a folder, at any depth, as uint8 [N, C, H, W], without labels.

    Args:
        folder: where they lie.
        shape: [C, H, W] that they are brought to: shorter side resized, middle cut out; so H is W.
        workers: threads that read; None is one for each core.
        field: what messages call the folder.

    Raises:
        BadInput: there are none, one cannot be decoded, or the shape is no square's.
    """
    if not folder.is_dir():
        raise BadInput(field, str(folder), "a folder of image files that exists")
    names = [name.removeprefix("./") for name in sorted(_files(folder, ".", ()))]
    if not names:
        raise _no_files(folder, _Watch(folder, ()))
    if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
        raise BadInput(field, str(folder), f"none with images of {'×'.join(map(str, shape))}: image files are square")
    files = ImageFiles(folder, names, (shape[0], shape[1], shape[2]), shape[2], workers or num_cores())
    require_memory(files.shape.numel(), field, str(folder))
    return files[:]


def _skipped_note(skipped: Sequence[str]) -> Iterator[str]:
    """A line that names files that cannot be decoded, if there are any."""
    if skipped:
        count = len(skipped)
        shown = ", ".join(map(shorten, skipped[:_SHOWN])) + (f" and {count - _SHOWN} more" if count > _SHOWN else "")
        yield f"{'1 file' if count == 1 else f'{count} files'} left out that cannot be decoded: {shown}"


def _read_headers(root: Path, names: list[str], workers: int) -> list[FileFacts | BadInput]:
    """The header of each file, up to the first that is no picture."""

    def read_some(positions: range) -> list[FileFacts]:
        found = []
        for position in positions:
            try:
                found.append(FileFacts(*header(root / names[position], FORMATS), drafted=False))
            except Exception as error:  # Pillow's decoders raise many kinds on damaged pictures
                raise decode_error(root / names[position], "a picture", error, _SKIP) from None
        return found

    return [
        each for piece in map_in_order(read_some, split_range(len(names), _JOB, workers), workers) for each in piece
    ]


def _common_form(
    root: Path, names: list[str], found: list[FileFacts], image_size: int | None
) -> tuple[bool, tuple[int, int]]:
    """Whether all files are grey, and the height and width that their images will have."""
    first = (found[0].height, found[0].width)
    for name, facts in zip(names, found, strict=True):
        if image_size is None and (facts.height, facts.width) != first:
            raise path_error(
                root,
                "images of one size (height × width), but "
                f"{names[0]} is {first[0]}×{first[1]} and {name} is {facts.height}×{facts.width}; "
                "set data.image_size (`--image-size`) to bring all to one",
            )
    return all(facts.grey for facts in found), (image_size, image_size) if image_size is not None else first


def _files_of_split(folder: Path, split: str, alternatives: bool, by_name: bool) -> list[Path]:
    """The files of another split; none where it cannot be read, which raises when it is loaded itself."""
    try:
        root = find_split(folder, split, "split", test_alternatives=alternatives, by_name=by_name)
        tree = read_names(root) if by_name else read_tree(root, each_class=False)
    except BadInput:
        return []
    return [tree.root / name for name in tree.names]


def _all_grey(paths: Iterable[Path], workers: int) -> bool:
    """Whether no file is coloured, up to the first that is; a file that cannot be read does not count."""

    def is_grey(path: Path) -> bool:
        try:
            return header(path, FORMATS)[0]
        except Exception:  # Pillow's decoders raise many kinds on damaged pictures
            return True

    return all(map_in_order(is_grey, paths, workers))
