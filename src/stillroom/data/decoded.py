"""Decoded images, kept once for all runs: a memory-mapped array under a hash of what it was decoded from.

They lie in ``images/`` of :func:`stillroom.files.cache_root`: the pixels as raw bytes, and a JSON, written after them,
with their shape and a CRC-32 for each block. What is missing, damaged or of no permission is decoded again; what was
not used for longest is removed where the whole would take more than 8·10⁹ bytes.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
from pydantic import Field

from stillroom.errors import BadInput
from stillroom.files import atomic_write, cache_root, canonical_json, digest, write_json
from stillroom.schema.base import Items, JsonFile, PositiveCount, read_json

_FOLDER = "images"
_LEAST = 1000  # images; fewer are decoded before their files are hashed
_LIMIT = 8 * 10**9  # bytes of all arrays
_BLOCK = 1 << 24  # bytes a checksum


class DecodedFile(JsonFile):
    """The JSON next to an array of decoded images: what it is of, its shape [N, C, H, W], a CRC-32 of each block."""

    name: str
    source: dict[str, Any] = Field(description="What the pixels depend on; the key is its hash.")
    shape: Items[PositiveCount]
    crc32: Items[int]


Pixels = npt.NDArray[np.uint8]


def stored_images(
    name: str, count: int, source: Callable[[], Mapping[str, Any]], decode: Callable[[], Pixels]
) -> Pixels:
    """Decoded images: from the store, else decoded and stored.

    Args:
        name: of the data, for the list of what is stored.
        count: N; a few images are decoded each time.
        source: all that the pixels depend on, as JSON: hashes of the files' content, rows.
        decode: gives uint8 [N, C, H, W].

    Returns:
        uint8 [N, C, H, W]; from the store it is a private map of the file: who writes to it changes no file.
    """
    if count < _LEAST:
        return decode()
    identity = {"format": 1, "pillow": PIL.__version__, **source()}
    key = digest(canonical_json(identity))[:32]
    folder = cache_root() / _FOLDER
    with suppress(OSError, BadInput, ValueError):
        return _read(folder, key)
    images = decode()
    if images.nbytes <= _LIMIT:
        with suppress(OSError):  # a full disk, or one without permission: the next run decodes again
            _make_room(folder, images.nbytes)
            _write(folder, key, DecodedFile(name=name, source=identity, shape=images.shape, crc32=()), images)
    return images


def _read(folder: Path, key: str) -> Pixels:
    record = read_json(DecodedFile, folder / f"{key}.json")
    path = folder / f"{key}.bin"
    with path.open("rb") as file:
        # Through the file, not the map: a read error then raises, where a map would end the process by a signal.
        found = tuple(zlib.crc32(block) for block in iter(lambda: file.read(_BLOCK), b""))
    if found != tuple(record.crc32) or path.stat().st_size != int(np.prod(record.shape)):
        raise ValueError("damaged")
    os.utime(path)  # so that it is removed last
    return np.memmap(path, np.uint8, mode="c", shape=tuple(record.shape))


def _write(folder: Path, key: str, record: DecodedFile, images: Pixels) -> None:
    content = np.ascontiguousarray(images).reshape(-1).data
    blocks = [content[start : start + _BLOCK] for start in range(0, len(content), _BLOCK)]
    (folder / f"{key}.json").unlink(missing_ok=True)
    with atomic_write(folder / f"{key}.bin") as temporary, temporary.open("wb") as file:
        for block in blocks:
            file.write(block)
    sums = tuple(map(zlib.crc32, blocks))
    write_json(folder / f"{key}.json", record.model_copy(update={"crc32": sums}).as_dict())


def _make_room(folder: Path, needed: int) -> None:
    """Remove what was not used for longest, until so many more bytes are within the limit."""
    there = sorted(((path.stat().st_mtime, path.stat().st_size, path) for path in folder.glob("*.bin")), reverse=True)
    total = needed
    for _, size, path in there:
        total += size
        if total > _LIMIT:
            _remove(path)


def _remove(path: Path) -> None:
    path.with_suffix(".json").unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def list_decoded(root: Path | None = None) -> list[dict[str, Any]]:
    """Every array of decoded images: ``key``, ``name``, ``images``, ``bytes``, ``file``; name is None if damaged.

    Args:
        root: the folder of caches; default :func:`cache_root`.

    >>> list_decoded(Path("no-such-folder"))
    []
    """
    return list(_listed((root or cache_root()) / _FOLDER))


def _listed(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.bin")):
        record = None
        with suppress(OSError, BadInput):
            record = read_json(DecodedFile, path.with_suffix(".json"))
        size = path.stat().st_size
        name, count = (None, None) if record is None else (record.name, record.shape[0])
        yield {"key": path.stem, "name": name, "images": count, "bytes": size, "file": str(path)}


def remove_decoded(key: str, root: Path | None = None) -> dict[str, Any] | None:
    """Remove an array of decoded images by its key; None if there is none such."""
    for entry in list_decoded(root):
        if entry["key"] == key:
            _remove(Path(entry["file"]))
            return entry
    return None
