"""The idx files of MNIST and its relatives, compressed by gzip or plain."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import torch

from stillroom.data.images import ImageSet, number_classes
from stillroom.data.reading import data_name, list_folder, path_error, read_error, require_memory, split_error

_NAME = re.compile(r"(?P<split>.+)-(?P<kind>images[-.]idx3|labels[-.]idx1)-ubyte(\.gz)?")
# The magic number: two zero bytes, 8 for unsigned bytes, the number of dimensions.
_MAGIC = {1: 0x0801, 3: 0x0803}
_WHAT = {1: "labels", 3: "images"}
_CHUNK = 1 << 20


def idx_splits(folder: Path) -> dict[str, dict[str, Path]]:
    """The splits of a folder: ``{split: {"images": path, "labels": path}}``; the published ``t10k`` is ``test``."""
    found: dict[str, dict[str, Path]] = {}
    for path in list_folder(folder):
        match = _NAME.fullmatch(path.name)
        if match:
            split = "test" if match["split"] == "t10k" else match["split"]
            found.setdefault(split, {})[match["kind"][:6]] = path
    return found


def read_idx(folder: Path, split: str, field: str = "split") -> ImageSet:
    """Read one split of a folder of idx files: grey images, classes named by their numbers."""
    found = idx_splits(folder)
    if split not in found:
        raise split_error(field, split, found)
    images = _read(_file(folder, split, "images", found), 3)
    labels = _read(_file(folder, split, "labels", found), 1)
    if len(images) != len(labels):
        raise path_error(folder, f"as many labels as images, but {split!r} has {len(labels)} and {len(images)}")
    if not images.size:
        raise path_error(found[split]["images"], f"at least 1 image, but it is {list(images.shape)}")
    targets = torch.from_numpy(labels.astype(np.int64))
    return ImageSet(torch.from_numpy(images)[:, None], targets, number_classes(targets), data_name(folder))


def idx_class_names(folder: Path, split: str) -> tuple[str, ...]:
    """The classes of a split that is there, from its labels alone."""
    labels = _read(_file(folder, split, "labels", idx_splits(folder)), 1)
    return number_classes(torch.from_numpy(labels.astype(np.int64)))


def _file(folder: Path, split: str, kind: str, found: dict[str, dict[str, Path]]) -> Path:
    if kind not in found[split]:
        there = next(iter(found[split].values())).name
        raise path_error(folder, f"the {kind} of split {split!r} as well as {there}")
    return found[split][kind]


def _read(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            return _parse(gzip.GzipFile(fileobj=raw) if compressed else raw, path, dimensions)
    except (OSError, EOFError, zlib.error) as error:
        raise read_error(path, error) from None


def _parse(stream: IO[bytes] | gzip.GzipFile, path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    header = stream.read(4 + 4 * dimensions)
    magic = int.from_bytes(header[:4], "big")
    if len(header) < 4 or magic != _MAGIC[dimensions]:
        expected = f"an idx file of {_WHAT[dimensions]} (magic number {_MAGIC[dimensions]})"
        raise path_error(path, f"{expected}, but it begins with {magic}")
    if len(header) < 4 + 4 * dimensions:
        raise path_error(path, "a whole idx header, but the file ends within it")
    shape = [int.from_bytes(header[start : start + 4], "big") for start in range(4, len(header), 4)]
    size = math.prod(shape)
    require_memory(size, "data.path", str(path))
    # The header's count is only a claim: memory grows with what really comes, and one byte more is asked for.
    content = bytearray()
    while len(content) <= size:
        chunk = stream.read(min(_CHUNK, size + 1 - len(content)))
        if not chunk:
            break
        content += chunk
    if len(content) != size:
        found = f"only {len(content)}" if len(content) < size else "more"
        raise path_error(path, f"{size} bytes, as its header says {shape}, but found {found}")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
