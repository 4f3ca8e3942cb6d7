"""The files of one view: raw little-endian arrays, the checksums that make them complete, and their verification."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from stillroom.config import Config
from stillroom.errors import BadInput
from stillroom.teachers.cache.identity import FORMAT, CacheSpec

_NUMBERS = {"float16": "<f2", "float32": "<f4"}


@dataclass(frozen=True)
class Array:
    """One array of a view, as it lies in its file.

    Attributes:
        name: ``logits``, or ``values``, ``classes`` and ``rest``; ``feature-0`` and on, one a tap;
            ``fisher-0`` and on, the square roots of Fisher weights.
        dtype: its numbers, as numpy writes it, little-endian.
        shape: [N, …]; the first is the images.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one image."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @property
    def bytes(self) -> int:
        """Bytes of all images."""
        return self.shape[0] * self.row_bytes

    def path(self, folder: Path, view: int) -> Path:
        """Where it lies.

        >>> Array("logits", "<f2", (5, 3)).path(Path("cache"), 2).name
        'view-0002.logits.bin'
        """
        return folder / f"{view_name(view)}.{self.name}.bin"


def view_name(view: int) -> str:
    """How the files of a view begin.

    >>> view_name(3)
    'view-0003'
    """
    return f"view-{view:04d}"


def arrays_of(spec: CacheSpec, features: Mapping[str, Sequence[int]]) -> list[Array]:
    """The arrays of each view.

    Args:
        spec: what is kept.
        features: of each tap, the shape of one image's features.

    >>> [array.name for array in arrays_of(CacheSpec({}, count=9, classes=1000, top_k=8), {})]
    ['values', 'classes', 'rest']
    """
    number, count = _NUMBERS[spec.dtype], spec.count
    if spec.top_k is None:
        arrays = [Array("logits", number, (count, spec.classes))]
    else:
        names = "<u2" if spec.classes <= 1 << 16 else "<i4"
        arrays = [
            Array("values", number, (count, spec.top_k)),
            Array("classes", names, (count, spec.top_k)),
            Array("rest", "<f4", (count,)),
        ]
    arrays += [Array(f"feature-{place}", number, (count, *features[tap])) for place, tap in enumerate(spec.taps)]
    return arrays + [Array(f"fisher-{p}", number, (count, *features[of.tap])) for p, of in enumerate(spec.fishers)]


class ArrayRecord(Config):
    """What a view's JSON says of one array."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int
    crc32: str = Field("", pattern="^([0-9a-f]{8}( [0-9a-f]{8})*)?$")


class ViewRecord(Config):
    """A view's JSON: written last, it makes the view complete. Also, without checksums, how a half-built one begins.

    It names the identity and the view, so that files copied from another folder, or under another number, are known.
    The checksums are CRC-32, one for each block of each array, 8 hex digits each: they are against damage, not against
    an enemy, find every flipped byte and every burst of 32 bits, and cost a fifth of what BLAKE2b or SHA-256 do, so
    that all of a cache can be verified whenever it is opened.
    """

    format: int
    key: str
    view: int
    block: int
    arrays: dict[str, ArrayRecord]

    @classmethod
    def of(cls, spec: CacheSpec, view: int, arrays: Iterable[Array], sums: Sequence[Sequence[int]] = ()) -> ViewRecord:
        """The record of a view; ``sums`` holds the checksums of each block, one an array."""
        described = {
            array.name: ArrayRecord(
                dtype=array.dtype,
                shape=array.shape,
                bytes=array.bytes,
                crc32=" ".join(f"{block[place]:08x}" for block in sums),
            )
            for place, array in enumerate(arrays)
        }
        return cls(format=FORMAT, key=spec.key, view=view, block=spec.block, arrays=described)

    def features(self, spec: CacheSpec) -> dict[str, tuple[int, ...]]:
        """Of each tap, the shape of one image's features."""
        return {tap: self.arrays[f"feature-{place}"].shape[1:] for place, tap in enumerate(spec.taps)}


def read_record(text: str, spec: CacheSpec, view: int) -> ViewRecord:
    """A view's record, checked to be this view's of this cache and to describe what the spec asks for.

    Raises:
        ValueError: it is not; the message says what is wrong.
    """
    try:
        record = ViewRecord.model_validate_json(text)
    except ValidationError:
        raise ValueError("an unharmed JSON file: this one is damaged") from None
    if record.format != FORMAT:
        raise ValueError(f"format {FORMAT}, not {record.format}: another version of stillroom wrote it")
    if (record.key, record.view) != (spec.key, view):
        raise ValueError(f"view {view} of cache {spec.key}: this is view {record.view} of cache {record.key}")
    try:
        arrays = arrays_of(spec, record.features(spec))
    except KeyError as error:
        raise ValueError(f"an unharmed JSON file: this one is damaged, {error} is missing") from None
    wanted = ViewRecord.of(spec, view, arrays)
    bare = {name: array.model_copy(update={"crc32": ""}) for name, array in record.arrays.items()}
    if record.model_copy(update={"arrays": bare}) != wanted:
        raise ValueError("the shapes and sizes of this cache: the file is damaged")
    return record


def checksums(file: BinaryIO, array: Array, spec: CacheSpec, limit: int | None = None) -> list[int]:
    """The CRC-32 of each block of an open file, read in order; of the first ``limit`` blocks, as far as it reaches."""
    file.seek(0)
    found = []
    for place, rows in enumerate(spec.blocks()):
        if place == limit:
            break
        size = len(rows) * array.row_bytes
        content = file.read(size)
        if len(content) < size:
            break
        found.append(zlib.crc32(content))
    return found


def map_array(path: Path, array: Array, spec: CacheSpec, sums: Sequence[int]) -> npt.NDArray[Any]:
    """Memory-map a file once its size and each of its blocks are verified.

    Raises:
        ValueError: it is cut short, too long or damaged; the message says which.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != array.bytes:
            how = "cut short" if size < array.bytes else "too long"
            raise ValueError(f"{array.bytes:,} bytes, not {size:,}: the file is {how}")
        # Through the file, not the map: a disk that cannot read is then an error and not a signal that kills.
        found = checksums(file, array, spec)
        if len(found) != len(sums):
            raise ValueError(f"{len(found)} checksums in its JSON, not {len(sums)}: that file is damaged")
        for place, (ours, theirs) in enumerate(zip(found, sums, strict=True)):
            if ours != theirs:
                first = place * spec.block
                last = min(first + spec.block, spec.count) - 1
                raise ValueError(f"checksum {theirs:08x} of images {first} to {last}, not {ours:08x}: it is damaged")
        mapped = np.memmap(file, dtype=array.dtype, mode="r", shape=array.shape)
    # A plain array over the same memory: indexing the subclass costs microseconds. The copy is for big-endian only.
    return np.asarray(mapped).astype(np.dtype(array.dtype).newbyteorder("="), copy=False)


def refusal(folder: Path, name: str, expected: str) -> BadInput:
    """A file of a cache that cannot be used: which, why, and what to do."""
    return BadInput("cache", name, f"{expected}; remove the folder {folder} to have it built again")
